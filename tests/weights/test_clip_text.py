"""CLIP's text tower: files of OpenAI's and transformers' give their vectors, and go back."""

import json

import numpy as np
import pytest

import cxr_jax
from cxr_jax.weights import export

pytest.importorskip("tokenizers")
WIDTH, HEADS, BLOCKS, POSITIONS, OUT = 64, 1, 2, 40, 32
SENTENCES = ["No effusion.", "There is a LARGE left effusion, isn't it?", "no"]
MERGES = ["e f", "ef f", "n o</w>", "l e", "eff u"]


@pytest.fixture
def folder(tmp_path):
    """A folder with CLIP's two files of a tokenizer, in miniature."""
    letters = [chr(n) for n in range(33, 127)]
    pieces = [*letters, *(f"{x}</w>" for x in letters), *(m.replace(" ", "") for m in MERGES)]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    for name in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[name] = len(vocabulary)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return tmp_path


def openai(size):
    """(OpenAI's text tower of random numbers as tensors, what torch makes of it)."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [
        torch.nn.TransformerEncoderLayer(
            *(WIDTH, HEADS, 4 * WIDTH, 0.0),
            lambda x: x * torch.sigmoid(1.702 * x),
            batch_first=True,
            norm_first=True,
        )
        for _ in range(BLOCKS)
    ]
    names = {
        **{"self_attn.in_proj_weight": "attn.in_proj_weight", "linear1.": "mlp.c_fc."},
        **{"self_attn.in_proj_bias": "attn.in_proj_bias", "linear2.": "mlp.c_proj."},
        **{"self_attn.out_proj.": "attn.out_proj.", "norm1.": "ln_1.", "norm2.": "ln_2."},
    }
    state = {
        "token_embedding.weight": torch.randn(size, WIDTH),
        "positional_embedding": torch.randn(POSITIONS, WIDTH),
        "text_projection": torch.randn(WIDTH, OUT) / 8,
        "logit_scale": torch.tensor(4.0),
        "ln_final.weight": torch.rand(WIDTH) + 0.5,
        "ln_final.bias": torch.randn(WIDTH),
    }
    for number, layer in enumerate(layers):
        for name, tensor in layer.state_dict().items():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[f"transformer.resblocks.{number}.{name}"] = tensor

    def features(numbers):
        x = state["token_embedding.weight"][numbers] + state["positional_embedding"][: len(numbers)]
        future = torch.nn.Transformer.generate_square_subsequent_mask(len(numbers))
        x = x[None]
        for layer in layers:
            x = layer.eval()(x, src_mask=future)
        norm = (state["ln_final.weight"], state["ln_final.bias"])
        x = torch.nn.functional.layer_norm(x[0, -1], (WIDTH,), *norm)
        return torch.nn.functional.normalize(x @ state["text_projection"], dim=0).detach().numpy()

    return {key: tensor.detach().numpy() for key, tensor in state.items()}, features


def test_openais_tower_gives_torchs_vectors_and_goes_back_by_transformers_names(folder, capsys):
    torch = pytest.importorskip("torch")
    from tests.weights import torch_vit

    words = json.loads((folder / "vocab.json").read_text())
    state, features = openai(len(words))
    torch.manual_seed(1)
    image = torch_vit.openai_clip(torch_vit.ViT(clip=True, eps=1e-5))
    visual = {key: t.numpy() for key, t in image.items() if key.startswith("visual.")}
    np.savez(folder / "clip.npz", **state, **visual)
    encoder = cxr_jax.load_encoder(f"clip:{folder / 'clip.npz'}")
    encoding = encoder.text_encoder.text.tokenizer.encode("No effusion").ids
    pieces = ["<|startoftext|>", "no</w>", "effu", "s", "i", "o", "n</w>", "<|endoftext|>"]
    assert encoding == [words[piece] for piece in pieces]
    texts = encoder.text(SENTENCES[:1] + SENTENCES[2:])
    for text, sentence in zip(texts, SENTENCES[:1] + SENTENCES[2:]):
        encoding = encoder.text_encoder.text.tokenizer.encode(sentence).ids
        np.testing.assert_allclose(text, features(encoding), atol=1e-5)
    grey = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    expected = encoder(grey) / np.linalg.norm(encoder(grey), axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.joint(grey), expected, atol=1e-6)
    out = folder / "out"
    export.main([f"clip:{folder / 'clip.npz'}", "--format=huggingface", f"--out={out}"])
    again = cxr_jax.load_encoder(f"huggingface:{out}")
    np.testing.assert_allclose(again.text(SENTENCES[:1]), texts[:1], atol=1e-5)
    assert again.text_encoder.text.scale == pytest.approx(np.exp(4.0))
    own = folder / "own"
    export.main([f"clip:{folder / 'clip.npz'}", "--format=safetensors", f"--out={own}"])
    for heads in (None, {"image": None, "text": None}):  # as exports and as workdirs say it
        facts = json.loads((own / "text.json").read_text()) | {"heads": heads}
        (own / "text.json").write_text(json.dumps(facts))
        again = cxr_jax.load_encoder(str(own)).text(SENTENCES[:1])
        np.testing.assert_allclose(again, texts[:1], atol=1e-5)
    # Of a folder of many models the first tokenizer may be another's.
    (folder / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nno")
    encoder = cxr_jax.load_encoder(f"clip:{folder / 'clip.npz'}")
    with pytest.raises(ValueError, match=f"has 4 tokens, its text tower {len(words)}: it is"):
        encoder.text("no")
    (folder / "vocab.txt").unlink()
    # Without its tokenizer the encoder of images is what it was.
    (folder / "merges.txt").unlink()
    encoder = cxr_jax.load_encoder(f"clip:{folder / 'clip.npz'}")
    assert encoder(grey).shape == (2, 32)
    with pytest.raises(FileNotFoundError, match="holds no tokenizer, without which"):
        encoder.text("no")
    (folder / "vocab.json").unlink()
    export.main([f"clip:{folder / 'clip.npz'}", "--format=safetensors", f"--out={folder / 'b'}"])
    assert "WARNING: the text tower is left out" in capsys.readouterr().out


def test_transformers_clip_gives_its_vectors_and_reads_ours(folder):
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    try:
        net_of, words_of = transformers.CLIPModel, transformers.CLIPTokenizer
        own = words_of(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except (ModuleNotFoundError, AttributeError) as error:
        pytest.skip(str(error))
    end = own.eos_token_id
    text = dict(hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=BLOCKS)
    text |= dict(vocab_size=len(own), max_position_embeddings=POSITIONS, num_attention_heads=8)
    text |= dict(eos_token_id=end, bos_token_id=end - 1)
    vision = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=1, image_size=32)
    vision |= dict(patch_size=16, num_attention_heads=2)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=OUT)
    torch.manual_seed(0)
    net = net_of(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": 32, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    encoder = cxr_jax.load_encoder(f"huggingface:{folder}")
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    pixels = torch.tensor((grey[:, None].repeat(3, 1) / 255 - 0.5) / 0.25, dtype=torch.float32)

    def theirs(net, tokenized):
        with torch.no_grad():
            out = net(pixel_values=pixels, **tokenized)
        return out.text_embeds.numpy(), out.image_embeds.numpy()

    tokenized = own(SENTENCES, padding=True, return_tensors="pt")
    texts, images = theirs(net, tokenized)
    np.testing.assert_allclose(encoder.text(SENTENCES), texts, atol=1e-5)
    np.testing.assert_allclose(encoder.joint(grey), images, atol=1e-5)
    out = folder / "out"
    export.main([f"huggingface:{folder}", "--format=huggingface", f"--out={out}"])
    words = transformers.AutoTokenizer.from_pretrained(out)
    tokenized = words(SENTENCES, padding=True, return_tensors="pt")
    again = theirs(net_of.from_pretrained(out).eval(), tokenized)
    np.testing.assert_allclose(again[0], texts, atol=1e-5)
    np.testing.assert_allclose(again[1], images, atol=1e-5)

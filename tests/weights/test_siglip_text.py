"""SigLIP's text tower: transformers' vectors, logits and pieces from files of its layout."""

import json
import struct

import numpy as np
import pytest

import cxr_jax
from cxr_jax.data import tokenizer
from cxr_jax.weights import export

pytest.importorskip("tokenizers")
SENTENCES = ["No effusion.", "There is a LARGE  left effusion, isn't it?", "no", "a (2 cm) node!"]
PIECES = [
    *(
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -4.0),
        ("▁no", -2.0),
        ("▁effusion", -3.0),
    ),
    *(("▁there", -3.0), ("▁is", -2.0), ("▁a", -2.0), ("▁la", -4.0), ("rge", -4.0), ("▁left", -3.0)),
    *((letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz2"),
]


def write_spiece(folder):
    """Writes PIECES as a model of SentencePiece's: messages by their fields' numbers."""

    def field(number, data):
        assert len(data) < 128
        return bytes([number << 3 | 2, len(data)]) + data

    model = b""
    for number, (piece, score) in enumerate(PIECES):
        kind = {0: 3, 1: 3, 2: 2}.get(number, 1)  # control, control, unknown; normal
        score = b"\x15" + struct.pack("<f", score)
        model += field(1, field(1, piece.encode()) + score + bytes([3 << 3, kind]))
    model += field(2, bytes([3 << 3, 1]))  # a trainer's field: a unigram model
    (folder / "spiece.model").write_bytes(model)


def test_pieces_are_sentencepieces(tmp_path):
    write_spiece(tmp_path)
    own = tokenizer.load_siglip(tmp_path)
    words = {piece: number for number, (piece, _) in enumerate(PIECES)}
    expected = ["▁there", "▁is", "▁a", "▁la", "rge", "▁left", "▁effusion", "▁is", *"nt", "▁", *"it"]
    encoded = tokenizer.encode(own, SENTENCES[1:2], 64)[0]
    assert encoded == [words[piece] for piece in [*expected, "</s>"]]
    # The same pieces from a tokenizer.json, whose expressions are not run.
    vocabulary = {"model": {"type": "Unigram", "vocab": PIECES}, "normalizer": {"Regex": "(a+)+$"}}
    other = tmp_path / "json"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    again = tokenizer.encode(tokenizer.load_siglip(other), SENTENCES, 64)
    assert again == tokenizer.encode(own, SENTENCES, 64)
    whole = (tmp_path / "spiece.model").read_bytes()
    for damaged in (whole[:-20], b"\x0a\xff" + whole, b"\xff" * 40, b""):
        (tmp_path / "spiece.model").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"spiece\.model is no"):
            tokenizer.load_siglip(tmp_path)


def test_transformers_siglip_gives_its_vectors_and_logits(tmp_path):
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    pytest.importorskip("sentencepiece")
    write_spiece(tmp_path)
    try:
        net_of, words_of = transformers.SiglipModel, transformers.SiglipTokenizer
    except ModuleNotFoundError as error:  # where its own imports fail, as with another torchvision
        pytest.skip(str(error))
    words = words_of(str(tmp_path / "spiece.model"))
    text = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=12)
    text |= dict(vocab_size=len(PIECES), max_position_embeddings=24, projection_size=64)
    vision = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=1, image_size=32)
    vision |= dict(patch_size=16, num_attention_heads=2)
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    net = net_of(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(tmp_path)
    encoder = cxr_jax.load_encoder(f"siglip:{tmp_path}")
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32), np.uint8)
    pixels = torch.tensor((grey[:, None].repeat(3, 1) / 255 - 0.5) / 0.5, dtype=torch.float32)
    numbers = words(SENTENCES, padding="max_length", max_length=24, return_tensors="pt").input_ids
    with torch.no_grad():
        out = net(pixel_values=pixels, input_ids=numbers)
    own = tokenizer.encode(encoder.text_encoder.text.tokenizer, SENTENCES, 24)
    assert [[*row, *[1] * (24 - len(row))] for row in own] == numbers.tolist()
    texts, images = encoder.text(SENTENCES), encoder.joint(grey)
    np.testing.assert_allclose(texts, out.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(images, out.image_embeds.numpy(), atol=1e-5)
    logits = encoder.text_encoder.text.scale * texts @ images.T + net.logit_bias.item()
    np.testing.assert_allclose(logits, out.logits_per_text.detach().numpy(), atol=1e-4)
    kept = tmp_path / "kept"
    export.main([f"siglip:{tmp_path}", "--format=safetensors", f"--out={kept}"])
    np.testing.assert_allclose(cxr_jax.load_encoder(str(kept)).text(SENTENCES), texts, atol=1e-5)
    facts = json.loads((tmp_path / "config.json").read_text())
    facts["text_config"]["pad_token_id"] = 0
    (tmp_path / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"pad_token_id is 0; SigLIP fills its texts"):
        cxr_jax.load_encoder(f"siglip:{tmp_path}").text(SENTENCES)

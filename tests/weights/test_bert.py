"""BERT's files: features equal PyTorch's, every key used, or passed over for a reason."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from safetensors.numpy import save_file

from cxr_jax.models.bert import make_text_encoder
from cxr_jax.weights.importers import _text, _towers
from cxr_jax.weights.text import TextEncoder
from tests.fakes import bert_file

WIDTH, HIDDEN, HEADS, BLOCKS, VOCABULARY, POSITIONS = 32, 48, 4, 3, 40, 16
SIZES = dict(vocabulary=VOCABULARY, width=WIDTH, num_blocks=BLOCKS, positions=POSITIONS)
ENCODER = make_text_encoder(SIZES | dict(heads=HEADS, hidden=HIDDEN), "config.objective.text")

_states = jax.jit(partial(ENCODER.apply, method="states"))


@pytest.fixture
def arrays():
    """A file's arrays by transformers' keys, random."""
    return bert_file.arrays(WIDTH, HIDDEN, BLOCKS, VOCABULARY, POSITIONS)


@pytest.fixture
def load(tmp_path):
    def loaded(arrays):
        save_file(arrays, tmp_path / "model.safetensors")
        return _text.load_text(tmp_path, ENCODER)

    return loaded


def texts():
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (4, 12))
    return tokens, np.arange(12) < np.array([12, 5, 1, 8])[:, None]


def states(params):
    return np.asarray(_states({"params": params}, *map(jnp.asarray, texts())))


def assert_alike(ours, theirs):
    mask = texts()[1]
    difference = np.abs(ours - theirs)[mask].max()
    assert difference < 1e-4 * np.abs(theirs[mask]).max()


def test_features_equal_torchs_own_encoder_layers(arrays, load):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    tensors = {key: torch.tensor(array) for key, array in arrays.items()}
    tokens, mask = (torch.tensor(part) for part in texts())

    def norm(x, name):
        scale, shift = (tensors[f"{name}.{leaf}"] for leaf in ("weight", "bias"))
        return functional.layer_norm(x, (WIDTH,), scale, shift, 1e-12)

    word, place, kind = (
        tensors[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    )
    x = norm(word[tokens] + place[:12] + kind[0], "embeddings.LayerNorm")
    for block in (f"encoder.layer.{i}" for i in range(BLOCKS)):
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, 0.0, "gelu", 1e-12, batch_first=True
        )
        names = {
            "self_attn.out_proj": "attention.output.dense",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm1": "attention.output.LayerNorm",
            "norm2": "output.LayerNorm",
        }
        state = {
            f"{own}.{leaf}": tensors[f"{block}.{name}.{leaf}"]
            for own, name in names.items()
            for leaf in ("weight", "bias")
        }
        for leaf in ("weight", "bias"):
            state[f"self_attn.in_proj_{leaf}"] = torch.cat(
                [tensors[f"{block}.attention.self.{p}.{leaf}"] for p in ("query", "key", "value")]
            )
        layer.load_state_dict(state)
        x = layer(x, src_key_padding_mask=~mask)
    assert_alike(states(load(arrays)), x.detach().numpy())


def test_features_equal_transformers(tmp_path):
    """With the heads of pretraining, in torch's file and in safetensors."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        kind = transformers.BertForPreTraining
    except ModuleNotFoundError as error:  # where its own imports fail, as with another torchvision
        pytest.skip(str(error))
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=POSITIONS,
    )
    torch.manual_seed(0)
    net = kind(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    tokens, mask = (torch.tensor(part) for part in texts())
    with torch.no_grad():
        expected = net.bert(tokens, attention_mask=mask.long()).last_hidden_state.numpy()
    params = _text.load_text(tmp_path, ENCODER)
    assert_alike(states(params), expected)
    net.save_pretrained(tmp_path)  # safetensors, which go first
    assert_alike(states(_text.load_text(tmp_path, ENCODER)), expected)


def test_prefix_heads_and_older_names_change_nothing(arrays, load):
    expected = states(load(arrays))
    older = {
        f"bert.{key}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for key, array in arrays.items()
    }
    older |= {
        "bert.embeddings.position_ids": np.arange(POSITIONS)[None],
        "bert.pooler.dense.weight": np.ones((WIDTH, WIDTH), np.float32),
        "cls.predictions.bias": np.ones(VOCABULARY, np.float32),
    }
    np.testing.assert_array_equal(states(load(older)), expected)


def test_what_does_not_fit_is_named(arrays, load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file .*model\.safetensors"):
        _text.load_text(tmp_path, ENCODER)
    layer = "encoder.layer.2.output.dense.weight"
    broken = {key: array for key, array in arrays.items() if key != layer}
    broken["encoder.layer.3.output.dense.weight"] = arrays[layer]
    broken["embeddings.word_embeddings.weight"] = np.zeros((41, WIDTH), np.float32)
    broken["embeddings.token_type_embeddings.weight"] = np.zeros((2, 1), np.float32)
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit BERT-32x3") as error:
        load(broken)
    for part in (
        f"1 missing: {layer}",
        "1 unexpected: encoder.layer.3.output.dense.weight",
        "embeddings.word_embeddings.weight (41, 32) where (40, 32) is expected",
        "embeddings.token_type_embeddings.weight (2, 1) (widths (32,) and (1,) differ)",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"1 unexpected beside 'bert\.': vision\.weight"):
        load(
            {f"bert.{key}": array for key, array in arrays.items()} | {"vision.weight": np.ones(1)}
        )
    with pytest.raises(ValueError, match=r"carry the prefix 'model\.'; strip it"):
        load({f"model.{key}": array for key, array in arrays.items()})


@pytest.fixture
def wide():
    """A BERT of a head of 64 channels: (its arrays, what gives the states of its first blocks)."""
    arrays = bert_file.arrays(64, 96, 5, VOCABULARY, POSITIONS)

    def states_of(tokens, blocks):
        dropped = tuple(f"encoder.layer.{i}." for i in range(blocks, 5))
        encoder = make_text_encoder(SIZES | dict(width=64, num_blocks=blocks, hidden=96), "BERT")
        kept = {key: array for key, array in arrays.items() if not key.startswith(dropped)}
        params = {"params": _text.fill_bert(encoder, kept)}
        apply = jax.jit(partial(encoder.apply, method="states"))
        return np.asarray(apply(params, jnp.array([tokens]), jnp.ones((1, len(tokens)), bool)))[0]

    return arrays, states_of


def write_tower(folder, arrays):
    """Saves arrays and a vocabulary; returns the file and the pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "no", "effusion", "##s", "Lung", "isn", "t", "."]
    (folder / "vocab.txt").write_text("\n".join([*pieces, *map(str, range(29))]))
    save_file(arrays, folder / "tower.safetensors")
    return folder / "tower.safetensors", pieces


def test_glorias_tower_is_the_sum_of_berts_last_layers(tmp_path, wide):
    pytest.importorskip("tokenizers")
    own, states_of = wide
    rng = np.random.default_rng(2)
    head = {"weight": rng.normal(size=(64, 24)), "bias": rng.normal(size=64)}
    arrays = {f"gloria.text_encoder.model.{key}": array for key, array in own.items()}
    for leaf, array in head.items():
        arrays[f"gloria.img_encoder.global_embedder.{leaf}"] = np.float32(array)
    arrays["gloria.img_encoder.model.conv1.weight"] = np.ones(3, np.float32)
    arrays["gloria.text_encoder.model.pooler.dense.bias"] = np.ones(64, np.float32)
    path, pieces = write_tower(tmp_path, arrays)
    tower = TextEncoder(_towers.read_gloria(path))
    tokens = [pieces.index(piece) for piece in ("[CLS]", *pieces[4:7], *pieces[8:10], "[SEP]")]
    assert tower.text.tokenizer.encode("No Effusions, ISN'T.").ids == tokens
    mean = sum(states_of(tokens, blocks) for blocks in (2, 3, 4, 5)).mean(axis=0)
    found = tower(["No Effusions, ISN'T."])[0]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)
    given = rng.normal(size=(2, 24))
    met = given @ head["weight"].T + head["bias"]
    expected = met / np.linalg.norm(met, axis=1, keepdims=True)
    np.testing.assert_allclose(tower.images(given), expected, atol=1e-5)
    del arrays["gloria.img_encoder.global_embedder.bias"]
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"safetensors: gloria\.img_encoder\.global_embedder is"):
        _towers.read_gloria(path)


def test_biomedclips_tower_is_berts_first_token_and_an_mlp(tmp_path, wide):
    pytest.importorskip("tokenizers")
    own, states_of = wide
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(44, 64)) / 8, rng.normal(size=(24, 44))
    arrays = {f"text.transformer.{key}": array for key, array in own.items()}
    arrays |= {"text.proj.0.weight": np.float32(first), "text.proj.2.weight": np.float32(second)}
    arrays |= {"logit_scale": np.array(4, np.float32), "visual.trunk.x": np.ones(2, np.float32)}
    path, pieces = write_tower(tmp_path, arrays)
    tower = TextEncoder(_towers.read_biomedclip(path))
    tokens = [pieces.index(piece) for piece in ("[CLS]", "no", "effusion", ".", "[SEP]")]
    x = first @ states_of(tokens, 5)[0]
    x = second @ (x * scipy.special.ndtr(x))
    np.testing.assert_allclose(tower(["no effusion."])[0], x / np.linalg.norm(x), atol=1e-5)
    assert tower.text.scale == pytest.approx(np.exp(4.0))
    given = rng.normal(size=(2, 24))
    expected = given / np.linalg.norm(given, axis=1, keepdims=True)
    np.testing.assert_allclose(tower.images(given), expected, atol=1e-6)
    del arrays["text.proj.2.weight"]
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"safetensors: text\.proj is missing"):
        _towers.read_biomedclip(path)

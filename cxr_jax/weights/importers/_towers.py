"""Text towers as others publish them: an encoder, its tokenizer, and heads before it meets images.

The tokenizer lies beside the weights. CLIP's as OpenAI and transformers save them
(arXiv:2103.00020), SigLIP's as transformers does (arXiv:2303.15343), GLoRIA's (ICCV 2021), and
BiomedCLIP's (arXiv:2303.00915).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cxr_jax.data import tokenizer
from cxr_jax.io.text import plain
from cxr_jax.models.bert import make_text_encoder
from cxr_jax.weights.arrays import find_weights, read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix, torch_array, without
from cxr_jax.weights.importers._text import (
    HUGGINGFACE,
    clips_layout,
    clips_source,
    fill_bert,
    fill_text,
    load_text,
)
from cxr_jax.weights.text import Text

_GLORIAS_IMAGE, _GLORIAS_TEXT = "gloria.img_encoder.", "gloria.text_encoder.model."
_GLORIAS_WORDS, _BIOMEDCLIPS_WORDS = 97, 256  # the longest texts that their codes read


def read_clip(path: str | Path, config: Mapping[str, Any]) -> Text:
    """Reads the text tower of a CLIP's file, with the tokenizer in its folder.

    `config` is the text_config of transformers' config.json, {} for none. Raises ValueError as
    `load_text`; FileNotFoundError where no tokenizer is beside the file.
    """
    path = find_weights(path)
    try:
        words = tokenizer.load(path.parent)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path.parent} holds no tokenizer, without which text cannot be read: put CLIP's "
            "tokenizer.json there, or its vocab.json and merges.txt"
        ) from error
    arrays = read_arrays(path)
    with errors_naming(path):
        layout = clips_layout(arrays)
        rows = arrays.get(f"{layout.patches}.weight") if layout else None
        places = arrays.get(layout.positions) if layout else None
        if rows is None or places is None or not rows.ndim == places.ndim == 2:
            raise ValueError("holds no text tower of CLIP's")
        if not config:
            _check_words(words, rows)
        blocks = {key for key in arrays if key.endswith(f"{layout.inner['fc1']}.bias")}
        blocks = {key for key in blocks if key.startswith(layout.block.partition("{")[0])}
        project = _project(arrays)
        if not blocks or project is None:
            raise ValueError("its text tower has no blocks or no projection")
        model = {
            **{"vocabulary": len(rows), "width": rows.shape[1], "num_blocks": len(blocks)},
            **{"hidden": arrays[min(blocks)].size, "positions": len(places), "pooling": "last"},
            **{"kind": "clip", "projection": project},
            "activation": _activation(config.get("hidden_act", "quick_gelu")),
            "heads": config.get("num_attention_heads", rows.shape[1] // 64),
        }
        if config.get("layer_norm_eps", 1e-5) != 1e-5 or type(model["heads"]) is not int:
            raise ValueError("config.json: text_config has another layer_norm_eps, or no heads")
        encoder = make_text_encoder(model, "its text tower")
    params = load_text(path, encoder)
    scale = float(np.exp(np.asarray(arrays.get("logit_scale", np.log(100)), np.float64)).item())
    return Text(model, params, {}, words, len(places), scale)


def read_siglip(path: str | Path, config: Mapping[str, Any]) -> Text:
    """Reads the text tower of a SigLIP's file, with the tokenizer in its folder; as `read_clip`."""
    path = find_weights(path)
    words = tokenizer.load_siglip(path.parent)
    arrays = read_arrays(path)
    with errors_naming(path):
        others = ("vision_model.", "text_model.embeddings.position_ids", "logit_")
        own = without(arrays, *others)
        rows, places = (
            own.get(f"text_model.embeddings.{name}_embedding.weight")
            for name in ("token", "position")
        )
        head = {leaf: own.pop(f"text_model.head.{leaf}", None) for leaf in ("weight", "bias")}
        blocks = {key for key in own if key.endswith("mlp.fc1.bias")}
        expected = {"tokens": rows, "positions": places, **head}
        lacking = [name for name, array in expected.items() if array is None]
        if lacking or not blocks or not rows.ndim == places.ndim == head["weight"].ndim == 2:
            raise ValueError(f"holds no text tower of SigLIP's ({', '.join(lacking) or 'shapes'})")
        width, out = rows.shape[1], len(head["weight"])
        model = {
            **{"vocabulary": len(rows), "width": width, "num_blocks": len(blocks)},
            **{"hidden": own[min(blocks)].size, "positions": len(places), "pooling": "last"},
            **{"kind": "siglip", "fill": config.get("pad_token_id", 1)},
            "activation": _activation(config.get("hidden_act", "gelu_pytorch_tanh")),
            "heads": config.get("num_attention_heads", 16 if width == 1152 else width // 64),
        }
        numbers = (model["heads"], model["fill"])
        if config.get("layer_norm_eps", 1e-6) != 1e-6 or {type(n) for n in numbers} != {int}:
            raise ValueError(
                "config.json: text_config has another layer_norm_eps, or no whole number for "
                "num_attention_heads or pad_token_id"
            )
        if not 0 < model["fill"] < len(rows):
            raise ValueError(
                f"config.json: text_config.pad_token_id is {model['fill']}; SigLIP fills its texts "
                f"with a token from 1 to {len(rows) - 1} (its owner's: 1). Correct it"
            )
        source = partial(clips_source, HUGGINGFACE)
        params = fill_text(make_text_encoder(model, "its text tower"), own, source, "SigLIP's text")
        if head["weight"].shape != (out, width) or head["bias"].shape != (out,):
            raise ValueError("its text_model.head has another shape than its tower")
        scale = float(np.exp(np.asarray(arrays.get("logit_scale", np.log(10)), np.float64)).item())
    heads = {"text": _linear(**head)}
    return Text(model, params, heads, words, len(places), scale)


def read_gloria(path: str | Path) -> Text:
    """Reads the BERT of a GLoRIA's file, with its tokenizer (vocab.txt) in the same folder.

    Reports and images meet in the mean of a text's tokens, each the sum of BERT's last four layers,
    and a linear map of the image's features. Text becomes lower case and loses its marks, as in the
    official code. Raises as `read_clip`.
    """
    path = Path(path).expanduser()
    words = tokenizer.of_bare_words(tokenizer.load(path.parent))
    arrays = read_arrays(path, containers=("state_dict",))
    with errors_naming(path):
        embedder = f"{_GLORIAS_IMAGE}global_embedder"
        head = {leaf: arrays.get(f"{embedder}.{leaf}") for leaf in ("weight", "bias")}
        own = strip_prefix(arrays, (_GLORIAS_TEXT,), (_GLORIAS_IMAGE,))
        model = _bert(own, words, pooling="mean")
        model["last"] = min(4, model["num_blocks"])
        width, shapes = model["width"], [np.shape(array) for array in head.values()]
        if len(shapes[0]) != 2 or (shapes[0][0], *shapes[1]) != (width, width):
            raise ValueError(f"{embedder} is missing or leads to another width than BERT's")
        params = fill_bert(make_text_encoder(model, "its BERT"), own)
    most = min(_GLORIAS_WORDS, model["positions"])
    return Text(model, params, {"image": _linear(**head)}, words, most, 10.0)


def read_biomedclip(path: str | Path) -> Text:
    """Reads the BERT of BiomedCLIP's file, with its tokenizer in the same folder; as `read_clip`.

    The first token's vector goes through an MLP.
    """
    path = Path(path).expanduser()
    words = tokenizer.load(path.parent)
    arrays = read_arrays(path)
    with errors_naming(path):
        own = strip_prefix(arrays, ("text.transformer.",), ("visual.", "text.proj.", "logit_scale"))
        model = _bert(own, words, pooling="first")
        first, second = (arrays.get(f"text.proj.{n}.weight", np.zeros(0)) for n in (0, 2))
        if first.ndim != 2 or second.ndim != 2 or second.shape[1] != len(first):
            raise ValueError("text.proj is missing or no MLP of two layers without biases")
        if first.shape[1] != model["width"]:
            raise ValueError("text.proj reads another width than BERT's")
        params = fill_bert(make_text_encoder(model, "its BERT"), own)
        scale = float(np.exp(np.asarray(arrays.get("logit_scale", np.log(100)), np.float64)).item())
    layers = {"dense0": {"kernel": np.float32(first.T), "bias": np.zeros(len(first), np.float32)}}
    layers["dense_out"] = {"kernel": np.float32(second.T)}
    fields = {"hidden": (len(first),), "out": len(second), "hidden_bn": False, "gelu": True}
    heads = {"text": (fields, {"params": layers})}
    return Text(model, params, heads, words, min(_BIOMEDCLIPS_WORDS, model["positions"]), scale)


def _check_words(words: Any, rows: np.ndarray) -> None:
    """Raises ValueError for a tokenizer of another model, which lies in the folder of many."""
    count = max(words.get_vocab().values(), default=-1) + 1
    if count != len(rows):
        raise ValueError(
            f"the tokenizer beside it has {count:,} tokens, its text tower {len(rows):,}: it is "
            "another model's. Put the file and its own tokenizer into a folder by themselves"
        )


def _bert(arrays: Mapping[str, np.ndarray], words: Any, pooling: str) -> dict[str, Any]:
    """Returns the fields of the BERT in `arrays`; ValueError for none, or other words than its."""
    rows, places = (
        arrays.get(f"embeddings.{name}_embeddings.weight") for name in ("word", "position")
    )
    inner = [array for key, array in arrays.items() if key.endswith("intermediate.dense.bias")]
    if not inner or rows is None or places is None or not rows.ndim == places.ndim == 2:
        raise ValueError("holds no BERT")
    _check_words(words, rows)
    return {
        **{"vocabulary": len(rows), "width": rows.shape[1], "num_blocks": len(inner)},
        **{"hidden": inner[0].size, "positions": len(places), "pooling": pooling},
    }


def _linear(weight: np.ndarray, bias: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a head that is torch's linear layer: fields of an MLP and its variables."""
    dense = {"kernel": np.float32(weight.T), "bias": np.float32(bias)}
    fields = {"hidden": (), "out": len(weight), "out_bias": True}
    return fields, {"params": {"dense_out": dense}}


def write_clip(text: Text) -> dict[str, np.ndarray]:
    """Returns a CLIP's text tower under the keys of transformers."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(text.params):
        names = tuple(entry.key for entry in path)
        keys = clips_source(HUGGINGFACE, ("params", *names)).keys
        tensors |= zip(keys, np.split(torch_array(names[-1], leaf), len(keys)))
    return tensors | {"logit_scale": np.array(np.log(text.scale), np.float32)}


def _project(arrays: Mapping[str, np.ndarray]) -> int | None:
    if "text_projection" in arrays:
        return arrays["text_projection"].shape[-1]
    return len(arrays["text_projection.weight"]) if "text_projection.weight" in arrays else None


def _activation(name: Any) -> str:
    known = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
    if name not in known:
        raise ValueError(f"config.json: hidden_act of the text is {plain(repr(name))}")
    return known[name]

"""Text towers: BERT as transformers saves it, CLIP's as OpenAI and transformers do.

BERT (BioClinicalBERT, CXR-BERT, BERT itself): keys with or without the prefix `bert.`. Passed over:
`cls.` and `classifier.` (heads of the tasks it was trained on), `pooler.` (a vector of the first
token; here all tokens are pooled) and `position_ids` (0, 1, 2 and so on). Of the two segments'
embeddings the first is added to the places', and the second left, because a report is one segment.
Older files call a norm's scale gamma, its shift beta.

CLIP (arXiv:2103.00020): a file of both towers or of the text's alone; the image's is passed over.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.data import tokenizer
from cxr_jax.io.text import plain
from cxr_jax.models.bert import Bert, make_text_encoder
from cxr_jax.weights.arrays import find_weights, read_arrays
from cxr_jax.weights.convert import (
    Source,
    errors_naming,
    fill_variables,
    refuse_prefix,
    strip_prefix,
    torch_array,
    without,
)
from cxr_jax.weights.importers._vit import OPENAI_BLOCK, Layout, query_key_value, stacked
from cxr_jax.weights.text import Text

_HEADS = ("cls.", "classifier.", "pooler.", "embeddings.position_ids")
_ATTENTION = "encoder.layer.{}.attention"
_BLOCK = {
    "proj": f"{_ATTENTION}.output.dense",
    "norm1": f"{_ATTENTION}.output.LayerNorm",
    "fc1": "encoder.layer.{}.intermediate.dense",
    "fc2": "encoder.layer.{}.output.dense",
    "norm2": "encoder.layer.{}.output.LayerNorm",
}
_OPENAI = Layout(
    patches="token_embedding",
    positions="positional_embedding",
    cls="",
    block="transformer.resblocks.{}.",
    outer={"norm": "ln_final", "project.kernel": Source(("text_projection",), np.transpose)},
    inner=OPENAI_BLOCK,
)
HUGGINGFACE = Layout(
    patches="text_model.embeddings.token_embedding",
    positions="text_model.embeddings.position_embedding.weight",
    cls="",
    block="text_model.encoder.layers.{}.",
    outer={"norm": "text_model.final_layer_norm", "project": "text_projection"},
    inner={
        "norm1": "layer_norm1",
        **query_key_value("self_attn.{part}_proj", "qkv"),
        "proj": "self_attn.out_proj",
        "norm2": "layer_norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
)
# What lies beside CLIP's text towers in its files.
_BESIDE = (
    *("visual.", "vision_model.", "visual_projection.", "logit_scale", "input_resolution"),
    *("context_length", "vocab_size", "text_model.embeddings.position_ids"),
)


def load_text(path: str | Path, encoder: Bert) -> dict[str, Any]:
    """Reads the parameters of `encoder` from a file, or from the hub's folder that holds it.

    Raises FileNotFoundError, and ValueError, naming the file, with all that does not fit.
    """
    path = find_weights(Path(path).expanduser())
    arrays = read_arrays(path)
    with errors_naming(path):
        if layout := _clips(arrays):
            arrays = without(arrays, *_BESIDE)
            return _fill(encoder, arrays, partial(_source, layout), "CLIP's text")
        if any(key.startswith("bert.") for key in arrays):
            arrays = strip_prefix(arrays, ("bert.",), _HEADS)
        arrays = {
            key.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
                "LayerNorm.beta", "LayerNorm.bias"
            ): array
            for key, array in arrays.items()
        }
        arrays = without(arrays, *_HEADS)
        refuse_prefix(arrays, "embeddings.word_embeddings.weight")
        return _fill(encoder, arrays, _berts_source, "BERT")


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
        layout = _clips(arrays)
        rows = arrays.get(f"{layout.patches}.weight") if layout else None
        places = arrays.get(layout.positions) if layout else None
        if rows is None or places is None or not rows.ndim == places.ndim == 2:
            raise ValueError("holds no text tower of CLIP's")
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


def write_clip(text: Text) -> dict[str, np.ndarray]:
    """Returns a CLIP's text tower under the keys of transformers."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(text.params):
        names = tuple(entry.key for entry in path)
        keys = _source(HUGGINGFACE, ("params", *names)).keys
        tensors |= zip(keys, np.split(torch_array(names[-1], leaf), len(keys)))
    return tensors | {"logit_scale": np.array(np.log(text.scale), np.float32)}


def _clips(arrays: Mapping[str, np.ndarray]) -> Layout | None:
    """Returns the layout of a CLIP's text tower; None where there is none."""
    found = (layout for layout in (_OPENAI, HUGGINGFACE) if f"{layout.patches}.weight" in arrays)
    return next(found, None)


def _project(arrays: Mapping[str, np.ndarray]) -> int | None:
    if "text_projection" in arrays:
        return arrays["text_projection"].shape[-1]
    return len(arrays["text_projection.weight"]) if "text_projection.weight" in arrays else None


def _activation(name: Any) -> str:
    known = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
    if name not in known:
        raise ValueError(f"config.json: hidden_act of the text is {plain(repr(name))}")
    return known[name]


def _fill(encoder: Bert, arrays: Mapping[str, np.ndarray], source_of: Any, name: str) -> Any:
    expected = jax.eval_shape(
        lambda tokens: encoder.init(jax.random.key(0), tokens, tokens > 0),
        jax.ShapeDtypeStruct((1, 1), jnp.int32),
    )
    size = f"{encoder.vocabulary} tokens, {encoder.positions} positions"
    architecture = f"{name}-{encoder.width}x{encoder.num_blocks} of {size}"
    return fill_variables(expected, arrays, source_of, architecture)["params"]


def _source(layout: Layout, path: tuple[str, ...]) -> Source:
    """Returns where CLIP has a variable of the tower."""
    _, module, *rest = path
    if module == "embeddings":
        places = layout.positions, f"{layout.patches}.weight"
        return Source((places[rest[0] == "word"],))
    return layout.source((module.replace("layer_", "block_"), *rest))


def _berts_source(path: tuple[str, ...]) -> Source:
    _, module, *rest = path
    if module == "embeddings":
        return _embedding(rest)
    number = module.removeprefix("layer_")
    layer, leaf = rest
    ending = "bias" if leaf == "bias" else "weight"
    if layer == "qkv":
        parts = ("query", "key", "value")
        return stacked(*(f"{_ATTENTION.format(number)}.self.{p}.{ending}" for p in parts))
    return Source((f"{_BLOCK[layer].format(number)}.{ending}",))


def _embedding(rest: list[str]) -> Source:
    if rest[0] == "norm":
        return Source((f"embeddings.LayerNorm.{'bias' if rest[1] == 'bias' else 'weight'}",))
    if rest[0] == "word":
        return Source(("embeddings.word_embeddings.weight",))
    keys = ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight")
    return Source(keys, _with_first_segment)


def _with_first_segment(places: np.ndarray, segments: np.ndarray) -> np.ndarray:
    if segments.shape[1:] != places.shape[1:]:
        raise ValueError(f"widths {places.shape[1:]} and {segments.shape[1:]} differ")
    return places + segments[0]

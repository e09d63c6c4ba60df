"""BERT as Hugging Face's transformers saves it: BioClinicalBERT, CXR-BERT, BERT itself.

Keys with or without the prefix `bert.`. Passed over: `cls.` and `classifier.` (heads of the tasks
it was trained on), `pooler.` (a vector of the first token; here all tokens are pooled) and
`position_ids` (0, 1, 2 and so on). Of the two segments' embeddings the first is added to the
places', and the second left, because a report is one segment. Older files call a norm's scale
gamma, its shift beta.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models.bert import Bert
from cxr_jax.weights.arrays import find_weights, read_arrays
from cxr_jax.weights.convert import (
    Source,
    errors_naming,
    fill_variables,
    refuse_prefix,
    strip_prefix,
    without,
)
from cxr_jax.weights.importers._vit import stacked

_HEADS = ("cls.", "classifier.", "pooler.", "embeddings.position_ids")
_ATTENTION = "encoder.layer.{}.attention"
_BLOCK = {
    "proj": f"{_ATTENTION}.output.dense",
    "norm1": f"{_ATTENTION}.output.LayerNorm",
    "fc1": "encoder.layer.{}.intermediate.dense",
    "fc2": "encoder.layer.{}.output.dense",
    "norm2": "encoder.layer.{}.output.LayerNorm",
}


def load_text(path: str | Path, encoder: Bert) -> dict[str, Any]:
    """Reads the parameters of `encoder` from a file, or from the hub's folder that holds it."""
    path = find_weights(Path(path).expanduser())
    arrays = read_arrays(path)
    with errors_naming(path):
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
        expected = jax.eval_shape(
            lambda tokens: encoder.init(jax.random.key(0), tokens, tokens > 0),
            jax.ShapeDtypeStruct((1, 1), jnp.int32),
        )
        size = f"{encoder.vocabulary} tokens, {encoder.positions} positions"
        architecture = f"BERT-{encoder.width}x{encoder.num_blocks} of {size}"
        return fill_variables(expected, arrays, _source, architecture)["params"]


def _source(path: tuple[str, ...]) -> Source:
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

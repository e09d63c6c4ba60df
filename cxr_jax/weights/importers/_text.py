"""Text encoders: BERT and SigLIP's as transformers saves them, CLIP's as OpenAI and it do.

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
from cxr_jax.weights.importers._vit import (
    CLIP_BLOCK,
    OPENAI_BLOCK,
    Layout,
    stacked,
)

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
    inner=CLIP_BLOCK,
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
        if layout := clips_layout(arrays):
            arrays = without(arrays, *_BESIDE)
            return fill_text(encoder, arrays, partial(clips_source, layout), "CLIP's text")
        if any(key.startswith("bert.") for key in arrays):
            arrays = strip_prefix(arrays, ("bert.",), _HEADS)
        refuse_prefix(arrays, "embeddings.word_embeddings.weight")
        return fill_bert(encoder, arrays)


def fill_bert(encoder: Bert, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the parameters of `encoder` from arrays by BERT's keys; raises as `fill_text`."""
    arrays = {
        key.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): array
        for key, array in without(arrays, *_HEADS).items()
    }
    return fill_text(encoder, arrays, _berts_source, "BERT")


def clips_layout(arrays: Mapping[str, np.ndarray]) -> Layout | None:
    """Returns the layout of a CLIP's text tower; None where there is none."""
    found = (layout for layout in (_OPENAI, HUGGINGFACE) if f"{layout.patches}.weight" in arrays)
    return next(found, None)


def fill_text(
    encoder: Bert, arrays: Mapping[str, np.ndarray], source_of: Any, name: str
) -> dict[str, Any]:
    """Returns the parameters of `encoder`; ValueError with all that does not fit."""
    expected = jax.eval_shape(
        lambda tokens: encoder.init(jax.random.key(0), tokens, tokens > 0),
        jax.ShapeDtypeStruct((1, 1), jnp.int32),
    )
    size = f"{encoder.vocabulary} tokens, {encoder.positions} positions"
    architecture = f"{name}-{encoder.width}x{encoder.num_blocks} of {size}"
    return fill_variables(expected, arrays, source_of, architecture)["params"]


def clips_source(layout: Layout, path: tuple[str, ...]) -> Source:
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

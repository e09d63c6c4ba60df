"""ConvNeXts and Swin transformers: timm's key names, and those that became them by renaming."""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import numpy as np

from cxr_jax.models import convnext, swin
from cxr_jax.weights.convert import Source, fill, list_first, refuse_prefix, without
from cxr_jax.weights.encoder import Encoder

Pixels = tuple[Sequence[float], Sequence[float]]
# A ConvNeXt's names in its owner's code and in transformers' DINOv3, and timm's.
_CONVNEXTS = (
    (r"^(stages\.0\.)?downsample_layers\.(?(1)|0\.)", "stem."),
    (r"^stages\.(\d+)\.downsample_layers\.", r"stages.\1.downsample."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(?:layers\.)?(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.(?:dwconv|depthwise_conv)\.", ".conv_dw."),
    (r"\.(?:pwconv|pointwise_conv)([12])\.", r".mlp.fc\1."),
    (r"\.layer_norm\.", ".norm."),
    (r"^(?:layer_)?norm\.", "head.norm."),
)
_MODULES = {
    **{"stem_conv": "stem.0", "stem_norm": "stem.1", "norm": "head.norm"},
    **{"fc1": "mlp.fc1", "fc2": "mlp.fc2"},
}
_SWINS = {
    **{"patch_embed": "patch_embed.proj", "patch_norm": "patch_embed.norm"},
    **{"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    "bias_table": "attn.relative_position_bias_table",
}


def is_convnext(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the keys are a ConvNeXt's."""
    return any(re.search(r"\.(conv_dw|dwconv|depthwise_conv)\.", key) for key in arrays)


def is_swin(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the keys are a Swin transformer's."""
    return any(key.endswith("relative_position_bias_table") for key in arrays)


def read_convnext(
    name: str,
    arrays: Mapping[str, np.ndarray],
    image_size: int,
    pixels: Pixels,
    fit: str = "crop",
    **fields: Any,
) -> Encoder:
    """Returns the ConvNeXt in `arrays`; the classifier is passed over.

    `fields`: of the model, which keys do not tell. Raises ValueError as `fill`, and for a prefix.
    """
    arrays = dict(arrays)
    for pattern, new in _CONVNEXTS:
        arrays = {re.sub(pattern, new, key): array for key, array in arrays.items()}
    refuse_prefix(arrays, "stem.0.weight", "stages.0.blocks.0.conv_dw.weight")
    arrays = without(arrays, "head.fc.", "head.weight", "head.bias")
    sizes = {name: (widths[0], blocks) for name, (blocks, widths) in convnext.VARIANTS.items()}
    variant = _nearest(arrays, r"stages\.(\d+)\.blocks\.", "stem.0.weight", sizes)
    scaled = "stages.0.blocks.0.gamma" in arrays
    model = {"name": "convnext", "variant": variant, **({} if scaled else {"layer_scale": 0.0})}
    model |= {"mean": tuple(pixels[0]), "std": tuple(pixels[1]), **fields}

    def source_of(path: tuple[str, ...]) -> Source:
        places = {"norm": "downsample.0", "conv": "downsample.1"}
        return Source((_key(path[1:], _MODULES, "stages", places),))

    variables = fill(model, arrays, source_of, f"ConvNeXt-{variant}")
    return Encoder(name, model, variables, image_size, fit)


def read_swin(
    name: str,
    arrays: Mapping[str, np.ndarray],
    image_size: int,
    pixels: Pixels,
    fit: str = "crop",
) -> Encoder:
    """Returns the Swin in `arrays`; the classifier and what its windows imply is passed over.

    A file of the owner's code has a stage's reduction at its end, timm's at the next one's start.
    Raises ValueError as `fill`, and for a prefix.
    """
    implied = ("relative_position_index", "attn_mask")
    arrays = {key: array for key, array in arrays.items() if not key.endswith(implied)}
    refuse_prefix(arrays, "patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight")
    if "layers.0.downsample.reduction.weight" in arrays:
        arrays = {
            re.sub(r"^layers\.(\d+)\.down", lambda m: f"layers.{int(m[1]) + 1}.down", key): array
            for key, array in arrays.items()
        }
    arrays = without(arrays, "head.")
    sizes = {name: (width, blocks) for name, (width, blocks, _) in swin.VARIANTS.items()}
    variant = _nearest(arrays, r"layers\.(\d+)\.blocks\.", "patch_embed.proj.weight", sizes)
    rows = len(arrays.get("layers.0.blocks.0.attn.relative_position_bias_table", ()))
    model = {"name": "swin", "variant": variant, "window": max((isqrt(rows) + 1) // 2, 2)}
    model |= {"mean": tuple(pixels[0]), "std": tuple(pixels[1])}

    def source_of(path: tuple[str, ...]) -> Source:
        places = {"norm": "downsample.norm", "reduction": "downsample.reduction"}
        return Source((_key(path[1:], _SWINS, "layers", places),))

    variables = fill(model, arrays, source_of, f"Swin-{variant}/{model['window']}")
    return Encoder(name, model, variables, image_size, fit)


def _key(
    path: Sequence[str], modules: Mapping[str, str], stages: str, places: Mapping[str, str]
) -> str:
    """Names a variable as timm does. `places`: of a stage's own layers, by their names here."""
    first, *rest = path
    found = re.fullmatch(r"stage(\d+)_(block(\d+)|\w+)", first)
    if not found:
        names = [modules.get(first, first)]
    elif found[3]:
        names = [f"{stages}.{found[1]}.blocks.{found[3]}"]
    else:
        names = [f"{stages}.{found[1]}.{places[found[2]]}"]
    if rest and rest[0] not in ("kernel", "scale", "bias"):
        module = rest.pop(0)
        names.append("norm" if module == "norm" else modules.get(module, module))
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    return ".".join([*names, *(leaves[leaf] for leaf in rest)])


def _nearest(
    arrays: Mapping[str, np.ndarray],
    pattern: str,
    stem: str,
    variants: Mapping[str, tuple[int, Sequence[int]]],
) -> str:
    """Returns the variant whose width and numbers of blocks the arrays have, or nearly have.

    `variants`: width, and blocks by stage, by name.
    """
    found = {m[0] + key[m.end() :].split(".")[0] for key in arrays if (m := re.match(pattern, key))}
    if not found or stem not in arrays:
        raise ValueError(f"no {stem} or no blocks (keys: {list_first(arrays, 3) or 'none'})")
    stages = [int(re.match(pattern, block)[1]) for block in found]
    width = len(arrays[stem])
    return min(
        variants,
        key=lambda name: (
            abs(variants[name][0] - width),
            sum(abs(stages.count(i) - count) for i, count in enumerate(variants[name][1])),
        ),
    )

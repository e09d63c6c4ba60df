"""DenseNets under torchvision's key names, whoever trained them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_jax.models.densenet import VARIANTS
from cxr_jax.weights._layouts.resnet import LEAF_NAMES
from cxr_jax.weights.convert import Source, fill
from cxr_jax.weights.key_prefix import refuse_prefix


def is_densenet(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the keys spell a DenseNet."""
    return any("denseblock1.denselayer1." in key for key in arrays)


def read_densenet(
    arrays: Mapping[str, np.ndarray],
    mean: Sequence[float],
    std: Sequence[float],
    negative_slope: float = 0.0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config of the model, its variables); which variant it is is read from the keys.

    num_batches_tracked, which no computation reads, is passed over. torchvision's own files write
    `norm.1` where its modules are called `norm1`; both are read.

    Raises ValueError as `fill`, and for a prefix that all keys carry.
    """
    refuse_prefix(arrays, "features.conv0.weight", "features.norm0.weight")
    arrays = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): array
        for key, array in arrays.items()
        if not key.endswith(".num_batches_tracked")
    }
    layers = {tuple(key.split(".")[1:3]) for key in arrays if ".denselayer" in key}
    blocks = sorted({block for block, _ in layers})
    sizes = tuple(sum(block == other for other, _ in layers) for block in blocks)
    variant = min(VARIANTS, key=lambda name: _difference(VARIANTS[name], sizes))
    model = {"name": "densenet", "variant": variant, "mean": tuple(mean), "std": tuple(std)}
    if negative_slope:
        model["negative_slope"] = negative_slope
    return model, fill(model, arrays, lambda path: Source((key_of(path),)), f"DenseNet-{variant}")


def _difference(sizes: tuple[int, ...], others: tuple[int, ...]) -> int:
    padded = zip(sizes + (0,) * len(others), others + (0,) * len(sizes))
    return sum(abs(a - b) for a, b in padded)


def key_of(path: tuple[str, ...]) -> str:
    """("params", "denseblock1_denselayer2", "conv1", "kernel") -> "features.….conv1.weight"."""
    *modules, leaf = path[1:]
    return ".".join(["features", *modules, LEAF_NAMES[leaf]]).replace("_denselayer", ".denselayer")

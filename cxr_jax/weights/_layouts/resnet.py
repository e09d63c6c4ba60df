"""ResNets under torchvision's key names, whoever trained them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_jax.models.resnet import VARIANTS
from cxr_jax.weights.convert import Source, fill, first
from cxr_jax.weights.key_prefix import refuse_prefix

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"} | {
    "mean": "running_mean",
    "var": "running_var",
}


def read_resnet(
    arrays: Mapping[str, np.ndarray],
    mean: Sequence[float],
    std: Sequence[float],
    stride_in_1x1: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config of the model, its variables); which variant it is is read from the keys.

    num_batches_tracked, which no computation reads, is passed over. Keys cannot tell v1.5 from v1,
    where a bottleneck's stride of 2 sits in its first 1x1 convolution (`stride_in_1x1`).

    Raises ValueError as `fill`, for a prefix that all keys carry, and for another architecture.
    """
    refuse_prefix(arrays, "conv1.weight", "layer1.0.conv1.weight")
    arrays = {key: a for key, a in arrays.items() if not key.endswith(".num_batches_tracked")}
    variant = _variant(arrays)
    model = {"name": "resnet", "variant": variant, "mean": tuple(mean), "std": tuple(std)}
    if stride_in_1x1 and VARIANTS[variant].get("bottleneck"):
        model["stride_in_1x1"] = True
    return model, fill(model, arrays, lambda path: Source((key_of(path),)), f"ResNet-{variant}")


def _variant(arrays: Mapping[str, np.ndarray]) -> str:
    """The variant whose number of blocks and kind of block the keys spell."""
    blocks = {tuple(key.split(".")[:2]) for key in arrays if key.startswith("layer")}
    stages = sorted({stage for stage, _ in blocks})
    sizes = tuple(sum(stage == other for other, _ in blocks) for stage in stages)
    bottleneck = any(key.endswith(".conv3.weight") for key in arrays)
    if not blocks:
        raise ValueError(
            "neither a ResNet nor a DenseNet: no key begins with 'layer' or "
            f"'features.denseblock' (keys: {first(arrays, 3) or 'none'})"
        )
    # torchvision's have numbers for names; the others are ours.
    read = {name: fields for name, fields in VARIANTS.items() if name.isdigit()}
    candidates = [
        (sum(a != b for a, b in zip(fields["stage_sizes"], sizes, strict=False)), name)
        for name, fields in read.items()
        if bool(fields.get("bottleneck")) == bottleneck
    ]
    return min(candidates)[1]


def key_of(path: tuple[str, ...]) -> str:
    """("params", "layer1_0", "downsample_conv", "kernel") -> "layer1.0.downsample.0.weight"."""
    *modules, leaf = path[1:]
    names = [
        {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(
            module, module.replace("_", ".")
        )
        for module in modules
    ]
    return ".".join([*names, LEAF_NAMES[leaf]])

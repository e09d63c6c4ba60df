"""ResNets and DenseNets under torchvision's key names, whoever trained them."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.models import densenet, resnet
from cxr_jax.weights.convert import (
    Source,
    errors_naming,
    fill,
    list_first,
    refuse_prefix,
    without,
)
from cxr_jax.weights.encoder import Encoder

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation
CLASSIFIERS = ("fc.weight", "fc.bias", "classifier.weight", "classifier.bias")
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}


def cnn_encoder(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    image_size: int = 224,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
    heads: Sequence[str] = CLASSIFIERS,
    fit: str = "crop",
    **fields: Any,
) -> Encoder:
    """Returns the encoder of `arrays`, named after `path`; its variant is read from the keys.

    num_batches_tracked, which no computation reads, is passed over.

    Args:
      heads: how the keys of layers behind the features begin, which an encoder lacks.
      fields: the model's that keys cannot tell: `stride_in_1x1` of bottlenecks (v1, not v1.5),
        `negative_slope` of a DenseNet's leaky ReLUs.

    Raises ValueError, naming the file: as `fill`, for a prefix that all keys carry, and for another
    architecture.
    """
    with errors_naming(path):
        arrays = {
            key: array
            for key, array in without(arrays, *heads).items()
            if not key.endswith(".num_batches_tracked")
        }
        fields = {"mean": tuple(mean), "std": tuple(std), **fields}
        if is_densenet(arrays):
            kind, key_of = "DenseNet", densenet_key
            arrays, model = _densenet(arrays)
        else:
            kind, key_of = "ResNet", resnet_key
            model = _resnet(arrays)
            if not resnet.VARIANTS[model["variant"]].get("bottleneck"):
                fields.pop("stride_in_1x1", None)
        name = f"{kind}-{model['variant']}" + ("-D" if "d" in model else "")
        variables = fill(model | fields, arrays, lambda path: Source((key_of(path),)), name)
    return Encoder(Path(path).stem, model | fields, variables, image_size, fit)


def _resnet(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    d = "conv1.0.weight" in arrays
    refuse_prefix(arrays, "conv1.0.weight" if d else "conv1.weight", "layer1.0.conv1.weight")
    model: dict[str, Any] = {"name": "resnet", "variant": _resnet_variant(arrays)}
    model |= {"d": True} if d else {}
    return model | ({"squeeze": True} if "layer1.0.se.fc1.weight" in arrays else {})


def _resnet_variant(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the variant whose number of blocks and kind of block the keys have."""
    blocks = {tuple(key.split(".")[:2]) for key in arrays if key.startswith("layer")}
    if not blocks:
        raise ValueError(
            "neither a ResNet nor a DenseNet: no key begins with 'layer' or "
            f"'features.denseblock' (keys: {list_first(arrays, 3) or 'none'})"
        )
    sizes = [sum(stage == s for s, _ in blocks) for stage in sorted({stage for stage, _ in blocks})]
    bottleneck = any(key.endswith(".conv3.weight") for key in arrays)
    candidates = [
        (sum(a != b for a, b in zip(fields["stage_sizes"], sizes, strict=False)), name)
        for name, fields in resnet.VARIANTS.items()
        # torchvision's have numbers for names; the others are ours.
        if name.isdigit() and bool(fields.get("bottleneck")) == bottleneck
    ]
    return min(candidates)[1]


def resnet_key(path: tuple[str, ...]) -> str:
    """Names a ResNet's variable as torchvision does.

    >>> resnet_key(("params", "layer1_0", "downsample_conv", "kernel"))
    'layer1.0.downsample.0.weight'
    """
    *modules, leaf = path[1:]
    renamed = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
    names = [renamed.get(module, module.replace("_", ".")) for module in modules]
    return ".".join([*names, _LEAVES[leaf]])


def is_densenet(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the keys are a DenseNet's."""
    return any("denseblock1.denselayer1." in key for key in arrays)


def _densenet(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays by the names of today, and the model's fields that the keys tell."""
    refuse_prefix(arrays, "features.conv0.weight", "features.norm0.weight")
    # torchvision's own files write `norm.1` where its modules are called `norm1`.
    arrays = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): array
        for key, array in arrays.items()
    }
    layers = {tuple(key.split(".")[1:3]) for key in arrays if ".denselayer" in key}
    sizes = [sum(block == b for b, _ in layers) for block in sorted({block for block, _ in layers})]
    differences = {
        variant: sum(abs(a - b) for a, b in zip_longest(known, sizes, fillvalue=0))
        for variant, known in densenet.VARIANTS.items()
    }
    return arrays, {"name": "densenet", "variant": min(differences, key=differences.get)}


def densenet_key(path: tuple[str, ...]) -> str:
    """Names a DenseNet's variable as torchvision does.

    >>> densenet_key(("params", "denseblock1_denselayer2", "conv1", "kernel"))
    'features.denseblock1.denselayer2.conv1.weight'
    """
    *modules, leaf = path[1:]
    return ".".join(["features", *modules, _LEAVES[leaf]]).replace("_denselayer", ".denselayer")

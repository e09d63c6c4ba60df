"""ResNet-18, 34 and 50 under torchvision's key names (the form called v1.5).

Which of the three is read from the keys. Keys cannot tell v1.5 from v1, where a bottleneck's
stride of 2 sits in its first 1x1 convolution: for those files the source is `torchvision_v1`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import models
from cxr_jax.models.resnet import VARIANTS
from cxr_jax.weights.checkpoint_files import read_arrays
from cxr_jax.weights.encoder import Encoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_UNSUPPORTED = {(3, 4, 23, 3): "ResNet-101", (3, 8, 36, 3): "ResNet-152"}
_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"} | {
    "mean": "running_mean",
    "var": "running_var",
}


def load(path: str | Path) -> Encoder:
    """The encoder in a .npz, .safetensors or .pth file; any float dtype becomes float32.

    Every key must be used and every variable found. Only the classifier (fc.weight, fc.bias),
    which an encoder lacks, and num_batches_tracked, which no computation reads, are passed over.

    Raises FileNotFoundError; ValueError naming the keys that are missing, unexpected, of a wrong
    shape or not finite, the prefix that all keys carry, or the architecture not supported.
    """
    return load_resnet(path, stride_in_1x1=False)


def load_resnet(path: str | Path, stride_in_1x1: bool) -> Encoder:
    arrays = {
        key: array
        for key, array in read_arrays(path).items()
        if key not in ("fc.weight", "fc.bias") and not key.endswith(".num_batches_tracked")
    }
    try:
        _refuse_prefix(arrays)
        variant = _variant(arrays)
        model = {"name": "resnet", "variant": variant, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if stride_in_1x1 and VARIANTS[variant].get("bottleneck"):
            model["stride_in_1x1"] = True
        variables = _fill(model, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # No resize to 256 first, as ImageNet's centre crop has it: it would cut the lung bases off.
    return Encoder(Path(path).stem, model, variables, image_size=224)


def _refuse_prefix(arrays: Mapping[str, np.ndarray]) -> None:
    ends = ("conv1.weight", "layer1.0.conv1.weight")
    prefixes = [
        key.removesuffix(ends[0])
        for key in arrays
        if key.endswith("." + ends[0]) and key.removesuffix(ends[0]) + ends[1] in arrays
    ]
    if "conv1.weight" in arrays or not prefixes:
        return
    first = prefixes[0]
    raise ValueError(
        f"the keys carry the prefix {' and '.join(map(repr, prefixes))}; strip it and save again: "
        f"{{k.removeprefix({first!r}): v for k, v in weights.items() if k.startswith({first!r})}}"
    )


def _variant(arrays: Mapping[str, np.ndarray]) -> str:
    """The variant whose number of blocks and kind of block the keys spell."""
    blocks = {tuple(key.split(".")[:2]) for key in arrays if key.startswith("layer")}
    stages = sorted({stage for stage, _ in blocks})
    sizes = tuple(sum(stage == other for other, _ in blocks) for stage in stages)
    bottleneck = any(key.endswith(".conv3.weight") for key in arrays)
    if not blocks:
        found = ", ".join(list(arrays)[:3]) or "none"
        raise ValueError(f"not a torchvision ResNet: no key begins with 'layer' (keys: {found})")
    if sizes in _UNSUPPORTED and bottleneck:
        raise ValueError(f"this is {_UNSUPPORTED[sizes]}; read are ResNet-18, 34 and 50")
    candidates = [
        (sum(a != b for a, b in zip(VARIANTS[name]["stage_sizes"], sizes, strict=False)), name)
        for name in ("18", "34", "50")
        if bool(VARIANTS[name].get("bottleneck")) == bottleneck
    ]
    return min(candidates)[1]


def _fill(model: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables of `model` filled from `arrays`, or a ValueError with all that does not fit."""
    net = models.build(model)
    image = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    expected = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), image)
    leaves, structure = jax.tree_util.tree_flatten_with_path(dict(expected))
    shapes = {
        torchvision_key(tuple(entry.key for entry in path)): _torch_shape(leaf.shape)
        for path, leaf in leaves
    }
    common = [key for key in shapes if key in arrays]
    faults = {
        "missing": [key for key in shapes if key not in arrays],
        "unexpected": [key for key in arrays if key not in shapes],
        "of another shape": [
            f"{key} {arrays[key].shape} where {shapes[key]} is expected"
            for key in common
            if arrays[key].shape != shapes[key]
        ],
        "not of a floating dtype": [
            f"{key} ({arrays[key].dtype})"
            for key in common
            if not jnp.issubdtype(arrays[key].dtype, jnp.floating)
        ],
        "not finite": [key for key in common if not _is_finite(arrays[key])],
    }
    if any(faults.values()):
        found = "; ".join(
            f"{len(keys)} {what}: {_first(keys)}" for what, keys in faults.items() if keys
        )
        raise ValueError(
            f"does not fit ResNet-{model['variant']}, which has {len(shapes)} keys; {found}"
        )
    values = [jnp.asarray(_from_torch(arrays[key].astype(np.float32))) for key in shapes]
    return jax.tree_util.tree_unflatten(structure, values)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape


def _from_torch(array: np.ndarray) -> np.ndarray:
    """Convolution kernels from (out, in, height, width) to (height, width, in, out)."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def _is_finite(array: np.ndarray) -> bool:
    # Integers are reported as such; float16 and bfloat16 overflow nothing on the way to float32.
    return bool(np.isfinite(array.astype(np.float32)).all())


def _first(items: list[str], count: int = 5) -> str:
    rest = len(items) - count
    return ", ".join(items[:count]) + (f", … and {rest} more" if rest > 0 else "")


def torchvision_key(path: tuple[str, ...]) -> str:
    """("params", "layer1_0", "downsample_conv", "kernel") -> "layer1.0.downsample.0.weight"."""
    *modules, leaf = path[1:]
    names = [
        {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}.get(
            module, module.replace("_", ".")
        )
        for module in modules
    ]
    return ".".join([*names, _LEAF_NAMES[leaf]])

"""Our variables in PyTorch's order of axes, and under torchvision's keys, for several formats."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import models
from cxr_jax.models._positions import resample
from cxr_jax.weights._layouts.cnn import densenet_key, resnet_key
from cxr_jax.weights.convert import to_torch
from cxr_jax.weights.encoder import Encoder

Arrays = dict[str, np.ndarray]


def layer(leaves: Mapping[str, Any], key: str) -> Arrays:
    """Returns {"kernel", "scale", "bias"} of one layer as `key`.weight and `key`.bias."""
    ending = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    return {f"{key}.{ending[leaf]}": _torch(leaf, array) for leaf, array in leaves.items()}


def _torch(leaf: str, array: Any) -> np.ndarray:
    array = np.asarray(array, np.float32)
    # safetensors writes what lies in memory, whatever the strides say.
    return np.ascontiguousarray(to_torch(array)) if leaf == "kernel" else array


def query_key_value(leaves: Mapping[str, Any], key: str) -> Arrays:
    """Returns the thirds of a block's "qkv", each under `key` with its name ("query") for {}."""
    return {
        key.format(part) + leaf: np.ascontiguousarray(third)
        for leaf, array in layer(leaves, "").items()
        for part, third in zip(("query", "key", "value"), np.split(array, 3))
    }


def blocks(encoder: Encoder) -> dict[str, Mapping[str, Any]]:
    """Returns a ViT's blocks by their number."""
    params = encoder.variables["params"].items()
    return {
        name.removeprefix("block_"): block for name, block in params if name.startswith("block_")
    }


def cnn(encoder: Encoder) -> Arrays:
    """Returns a ResNet or DenseNet under torchvision's keys. Raises ValueError for any other."""
    name, variant = encoder.model["name"], encoder.model["variant"]
    if name not in ("resnet", "densenet"):
        raise ValueError(
            f"torchvision's layout is written of ResNets and DenseNets, not of {name}; "
            "try --format=timm, huggingface or onnx"
        )
    if name == "resnet" and not variant.isdigit():
        raise ValueError(
            f"ResNet {variant!r} is our own: no other tool has it; --format=onnx runs without us, "
            "--format=safetensors keeps it"
        )
    if encoder.model.get("negative_slope"):
        raise ValueError("torchvision's DenseNets have no leaky ReLUs; --format=onnx does")
    key_of = resnet_key if name == "resnet" else densenet_key
    tensors: Arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables):
        names = tuple(entry.key for entry in path)
        tensors[key_of(names)] = _torch(names[-1], leaf)
        if names[-1] == "var":  # torch counts batches beside them
            key = key_of(names).replace("running_var", "num_batches_tracked")
            tensors[key] = np.zeros((), np.int64)
    return tensors


def at_its_size(encoder: Encoder) -> Encoder:
    """Returns a ViT with positions for the images that it reads, any other encoder as it is.

    Tools differ in how they resample positions.
    """
    if encoder.model["name"] != "vit":
        return encoder
    model, params = models.build(encoder.model), encoder.variables["params"]
    old, new = model.image_size // model.patch, encoder.image_size // model.patch
    positions = jnp.asarray(params["positions"]).reshape(old, old, model.width)
    positions = resample(positions, new, new, model.antialias).reshape(new * new, model.width)
    return encoder._replace(
        model={**encoder.model, "image_size": new * model.patch},
        variables={**encoder.variables, "params": {**params, "positions": positions}},
    )


def has_clips_parts(model: Any) -> bool:
    """Returns whether a ViT is CLIP's rather than the plain one."""
    quick = model.activation != "gelu"
    return bool(model.pre_norm or model.projection or quick or model.epsilon != 1e-6)


def width(encoder: Encoder) -> int:
    """Returns how many features it gives."""
    model, images = models.build(encoder.model), jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32)
    return jax.eval_shape(lambda v, x: model.apply(v, x, False), encoder.variables, images).shape[1]

"""The formats in which encoders are exported, one per file: `export(encoder) -> Exported`.

`export` raises ValueError for an encoder that the tool has no module for, and names a format that
takes it. What several formats need is here too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import models
from cxr_jax.models._positions import resample
from cxr_jax.weights.convert import torch_array
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers._cnn import densenet_key, resnet_key
from cxr_jax.weights.text import Text

Arrays = dict[str, np.ndarray]


class Exported(NamedTuple):
    """An encoder in the form of another tool.

    Attributes:
      tensors: the contents of model.safetensors, by key; {}: no such file.
      files: other files by name, as JSON or bytes.
      usage: the lines of Python that load it.
      library: the name of the tool, where Hugging Face's hub knows it.
      normalises: whether it takes pixels in [0, 1] and normalises them itself.
      has_text: whether the text tower is in it, where the encoder has one.
    """

    tensors: dict[str, np.ndarray]
    files: dict[str, Any]
    usage: str
    library: str = ""
    normalises: bool = False
    has_text: bool = False


def text_of(encoder: Encoder) -> Text | None:
    """Reads the encoder's text tower; None where it has none, or, said so, no tokenizer."""
    try:
        return encoder.text() if encoder.text else None
    except FileNotFoundError as error:
        print(f"WARNING: the text tower is left out: {error}")
        return None


def cnn(encoder: Encoder, plain: bool = True) -> Arrays:
    """Returns a ResNet or DenseNet under torchvision's keys. Raises ValueError for any other.

    `plain`: not ResNet-D or SE either, whose further keys are timm's.
    """
    name, variant = encoder.model["name"], encoder.model["variant"]
    if name not in ("resnet", "densenet"):
        other = "timm, huggingface or onnx" if name == "vit" else "safetensors"
        raise ValueError(
            f"this layout is written of ResNets and DenseNets, not of {name}; try --format={other}"
        )
    if name == "resnet" and not variant.isdigit():
        raise ValueError(
            f"ResNet {variant!r} is our own: no other tool has it; --format=onnx runs without us, "
            "--format=safetensors keeps it"
        )
    if plain and (encoder.model.get("d") or encoder.model.get("squeeze")):
        raise ValueError("ResNet-D and SE-ResNet are timm's; --format=timm and onnx take them")
    if encoder.model.get("negative_slope"):
        raise ValueError("torchvision's DenseNets have no leaky ReLUs; --format=onnx does")
    key_of = resnet_key if name == "resnet" else densenet_key
    tensors: Arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables):
        names = tuple(entry.key for entry in path)
        tensors[key_of(names)] = torch_array(names[-1], leaf)
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
    if "positions" not in params:  # rotary ones alone, which fit any size
        return encoder._replace(model={**encoder.model, "image_size": new * model.patch})
    positions = jnp.asarray(params["positions"]).reshape(old, old, model.width)
    positions = resample(positions, new, new, model.antialias).reshape(new * new, model.width)
    return encoder._replace(
        model={**encoder.model, "image_size": new * model.patch},
        variables={**encoder.variables, "params": {**params, "positions": positions}},
    )


def refuse_newer_vits(model: Any, tool: str) -> None:
    """Raises ValueError for a ViT with parts that `tool`'s are not written with here."""
    parts = {
        "rotary positions": model.rope,
        "a gated MLP": model.activation == "swiglu",
        "a norm in its MLP": model.mlp_norm,
        "attention pooling": model.pooling == "attention",
    }
    if any(parts.values()):
        found = " and ".join(part for part, there in parts.items() if there)
        raise ValueError(f"no ViT with {found} is written for {tool}; --format=onnx has it")


def describe(encoder: Encoder) -> str:
    """Says in words which images it reads."""
    size = encoder.image_size
    squares = {
        "crop": f"shorter side brought to {size} px, the centre cropped",
        "pad": f"padded with black to a square (image in the middle), brought to {size} px",
        "squash": f"both sides brought to {size} px",
    }
    return f"Grey images, white = dense, {squares[encoder.fit]}; pixels in [0, 1]"

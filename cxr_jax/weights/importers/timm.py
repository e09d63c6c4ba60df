"""timm's ViTs, in the layout that DeiT, DINO, MAE and DINOv2's timm files share, and its ResNets.

Mean, deviation, size and pooling are those of `config.json` beside the weights, as the hub has it.
Without that file the class token is taken if there is one, mean and deviation are ImageNet's, and
the size is that of the position embeddings (ResNets: 224 px): right for DeiT, DINO and MAE, wrong
for timm's "augreg" ViTs, whose mean and deviation are a half.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD, cnn_encoder
from cxr_jax.weights._layouts.vit import num_rows, read_vit, rows, shape_of, tokens
from cxr_jax.weights.arrays import read_arrays, read_hub_folder
from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, without
from cxr_jax.weights.encoder import Encoder, check_pixels

_BLOCK = "blocks.{}."


def load(path: str | Path) -> Encoder:
    """Reads the encoder in a folder of the hub, in its model.safetensors, or in a checkpoint.

    A checkpoint may hold its weights under `model` or `state_dict`. Passed over: the classifier
    (head, head_dist, fc), and the mask token, which stands for patches hidden in training.

    Raises FileNotFoundError; ValueError with all that does not fit.
    """
    file, facts = read_hub_folder(path, "config.json")
    mean_of_patches = facts.get("global_pool") == "avg"
    arrays = read_arrays(file, containers=("model", "state_dict"))
    name = Path(path).name if Path(path).is_dir() else file.stem
    with errors_naming(file.parent / "config.json"):
        mean, std, size = _facts(facts.get("pretrained_cfg", {}))
    if any(key.startswith("layer1.") for key in arrays):
        return cnn_encoder(file, arrays, size or 224, mean, std)._replace(name=name)
    with errors_naming(file):
        refuse_prefix(arrays, "patch_embed.proj.weight", "pos_embed")
        arrays = without(arrays, "head.", "head_dist.", "mask_token")
        model, variables = _read(arrays, {"mean": mean, "std": std}, mean_of_patches)
    return Encoder(name, model, variables, size or model["image_size"])


def _facts(facts: Any) -> tuple[tuple[float, ...], tuple[float, ...], int | None]:
    """Pixels' mean and deviation, and the images' size; None where nothing says it."""
    try:
        mean = tuple(map(float, facts.get("mean", IMAGENET_MEAN)))
        std = tuple(map(float, facts.get("std", IMAGENET_STD)))
        size = facts["input_size"][-1] if "input_size" in facts else None
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise ValueError("pretrained_cfg is of another kind than timm's") from error
    check_pixels(mean, std, size)
    return mean, std, size


def _read(
    arrays: Mapping[str, np.ndarray], pixels: dict[str, Any], mean_of_patches: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    shape = shape_of(arrays, "patch_embed.proj.weight", "pos_embed", _BLOCK.format(r"(\d+)"))
    class_token, norm_after = "cls_token" in arrays, "fc_norm.weight" in arrays
    has_place = arrays["pos_embed"].shape[-2] > (shape["image_size"] // shape["patch"]) ** 2
    shape["antialias"] = True
    if not class_token:
        shape["class_token"] = False
    if norm_after or not class_token or mean_of_patches:
        shape |= {"pooling": "mean", "norm_after_pooling": norm_after}
    if "reg_token" in arrays:
        shape["registers"] = num_rows(arrays, "reg_token")
    if "blocks.0.ls1.gamma" in arrays:
        shape["layer_scale"] = 1.0
    return read_vit(
        shape | pixels,
        arrays,
        tokens("cls_token" if class_token else None, "pos_embed", has_place)
        | {
            "register_tokens": Source(("reg_token",), rows),
            "patch_embed": "patch_embed.proj",
            "norm": "fc_norm" if norm_after else "norm",
        },
        {
            "norm1": _BLOCK + "norm1",
            "qkv": _BLOCK + "attn.qkv",
            "proj": _BLOCK + "attn.proj",
            "scale1": _BLOCK + "ls1.gamma",
            "norm2": _BLOCK + "norm2",
            "fc1": _BLOCK + "mlp.fc1",
            "fc2": _BLOCK + "mlp.fc2",
            "scale2": _BLOCK + "ls2.gamma",
        },
    )

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
from cxr_jax.weights._layouts.vit import Layout, num_rows, read_vit, rows
from cxr_jax.weights.arrays import read_arrays, read_hub_folder
from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, without
from cxr_jax.weights.encoder import Encoder, check_pixels

_LAYOUT = Layout(
    patches="patch_embed.proj",
    positions="pos_embed",
    cls="cls_token",
    block="blocks.{}.",
    outer={"register_tokens": Source(("reg_token",), rows), "norm": "norm"},
    inner={
        "norm1": "norm1",
        "qkv": "attn.qkv",
        "proj": "attn.proj",
        "scale1": "ls1.gamma",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "scale2": "ls2.gamma",
    },
    cls_has_place=None,
)


def load(path: str | Path) -> Encoder:
    """Reads the encoder in a folder of the hub, in its model.safetensors, or in a checkpoint.

    A checkpoint may hold its weights under `model` or `state_dict`. Passed over: the classifier
    (head, head_dist, fc), and the mask token, which stands for patches hidden in training.
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
        fields = _fields(arrays, mean_of_patches) | {"mean": mean, "std": std}
        layout = _LAYOUT if "cls_token" in arrays else _LAYOUT._replace(cls=None)
        if fields.get("norm_after_pooling"):
            layout = layout._replace(outer={**layout.outer, "norm": "fc_norm"})
        encoder = read_vit(name, arrays, layout, **fields)
    return encoder._replace(image_size=size or encoder.image_size)


def _facts(facts: Any) -> tuple[tuple[float, ...], tuple[float, ...], int | None]:
    """Returns the pixels' mean and deviation, and the images' size, None where it is not said."""
    try:
        mean = tuple(map(float, facts.get("mean", IMAGENET_MEAN)))
        std = tuple(map(float, facts.get("std", IMAGENET_STD)))
        size = facts["input_size"][-1] if "input_size" in facts else None
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise ValueError("pretrained_cfg is of another kind than timm's") from error
    check_pixels(mean, std, size)
    return mean, std, size


def _fields(arrays: Mapping[str, np.ndarray], mean_of_patches: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"antialias": True}
    norm_after = "fc_norm.weight" in arrays
    if "cls_token" not in arrays:
        fields["class_token"] = False
    if norm_after or "cls_token" not in arrays or mean_of_patches:
        fields |= {"pooling": "mean", "norm_after_pooling": norm_after}
    if "reg_token" in arrays:
        fields["registers"] = num_rows(arrays, "reg_token")
    if "blocks.0.ls1.gamma" in arrays:
        fields["layer_scale"] = 1.0
    return fields

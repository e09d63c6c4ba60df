"""timm's ViTs, ResNets and DenseNets, ConvNeXts and Swin transformers.

Of ViTs also DeiT's, distilled or not, DINO's, MAE's, CLIP's and SigLIP's; ConvNeXts and Swin
transformers also in the layout of their owners' code; of ResNets the plain ones, D ("resnet50d")
and SE ("seresnet50"). What keys do not tell, config.json beside the weights does, as the hub has
it: the architecture's name and arguments (heads, pooling, activation; blurred ResNets and other
kinds of attention are refused by it), mean, deviation, size and how an image becomes a square.
`crop_pct` is passed over: the whole square is seen, lung bases included, where timm's evaluation
cuts a rim off.

Without that file the class token is taken if there is one, mean and deviation are ImageNet's, and
the size is that of the position embeddings (of those without 224 px): right for DeiT, DINO and
MAE, wrong for timm's "augreg" ViTs, whose mean and deviation are a half, and for blurred ResNets.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import find_weights, read_arrays, read_facts
from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, without
from cxr_jax.weights.encoder import Encoder, check_pixels
from cxr_jax.weights.importers._cnn import IMAGENET, cnn_encoder, is_densenet
from cxr_jax.weights.importers._hierarchical import (
    is_convnext,
    is_swin,
    read_convnext,
    read_swin,
)
from cxr_jax.weights.importers._vit import Layout, read_vit, size_facts

LAYOUT = Layout(
    patches="patch_embed.proj",
    positions="pos_embed",
    cls="cls_token",
    block="blocks.{}.",
    outer={
        **{"norm": "norm", "norm_pre": "norm_pre"},
        **{f"head.{name}": f"attn_pool.{name}" for name in ("q", "kv", "proj", "norm")},
        **{"head.fc1": "attn_pool.mlp.fc1", "head.fc2": "attn_pool.mlp.fc2"},
        "head.probe": Source(("attn_pool.latent",), np.ravel),
    },
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
    registers=("dist_token", "reg_token"),
    has_place=None,
)
_CNN = re.compile(
    r"(tv_)?(se)?resnet\d+d?|densenet\d+|convnext_(tiny|small|base|large|xlarge)|"
    r"swin_(tiny|small|base|large)_patch4_window\d+_\d+"
)
# The words of which names of ViTs consist whose parts are all ours.
_VIT = re.compile(
    r"vit|deit3?|flexivit|eva|tiny|small|base|large|huge|giant|gigantic|medium|mediumd|betwixt|wee|"
    r"little|xsmall|so\d+m2?|intern300m|patch\d+|reg\d+|36x1|plus|gap|distilled|clip|quickgelu|"
    r"siglip|dinov2|\d+"
)
_TANH = re.compile(r"patch32_siglip|so400m_patch16_siglip|large_patch16_siglip_(gap_)?512")
# Arguments that say what keys and shapes say too, or change nothing that is read here.
_KNOWN = {
    *("img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "class_token", "reg_tokens", "no_embed_class", "fc_norm", "init_values"),
    *(
        "layers",
        "depths",
        "dims",
        "window_size",
        "block_config",
        "dynamic_img_size",
        "strict_img_size",
        "global_pool",
        "act_layer",
        "pre_norm",
    ),
}
_ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")
FITS = {"center": "crop", "border": "pad", "squash": "squash"}


def load(path: str | Path) -> Encoder:
    """Reads the encoder in a folder of the hub, in its model.safetensors, or in a checkpoint.

    A checkpoint may hold its weights under `model` or `state_dict`. Passed over: the classifier
    (head, head_dist, fc, classifier), and the mask token, which stands for hidden patches.
    """
    file = find_weights(path)
    config = read_facts(file, "config.json")
    arrays = read_arrays(file, containers=("model", "state_dict"))
    with errors_naming(file.parent / "config.json"):
        mean, std, size, fit = _facts(config.get("pretrained_cfg", {}))
        name, arguments = _architecture(config)
    if any(key.startswith("layer1.") for key in arrays) or is_densenet(arrays):
        encoder = cnn_encoder(file, arrays, size or 224, mean, std, fit=fit)
    elif is_convnext(arrays) or is_swin(arrays):
        read = read_convnext if is_convnext(arrays) else read_swin
        with errors_naming(file):
            encoder = read(file.stem, arrays, size or 224, (mean, std), fit)
    else:
        with errors_naming(file):
            refuse_prefix(arrays, "patch_embed.proj.weight", "pos_embed")
            arrays = without(arrays, "head.", "head_dist.", "mask_token")
            pooling = arguments.get("global_pool", config.get("global_pool"))
            fields = _fields(arrays, name, arguments, pooling) | {"mean": mean, "std": std}
            norm = "fc_norm" if fields.get("norm_after_pooling") else "norm"
            layout = LAYOUT._replace(outer=LAYOUT.outer | {"norm": norm})
            sizes = size_facts({**config, **arguments})
            if name.startswith("vit_base_patch16_gap"):
                sizes = {"heads": 16, "depth": 12} | sizes
            elif "base" in name.split("_"):  # without class token: too like the one before
                sizes = {"heads": 12, "depth": 12} | sizes
            encoder = read_vit(file.stem, arrays, layout, fit=fit, **sizes, **fields)
            encoder = encoder._replace(image_size=size or encoder.image_size)
    return encoder._replace(name=Path(path).name if Path(path).is_dir() else file.stem)


def _facts(facts: Any) -> tuple[tuple[float, ...], tuple[float, ...], int | None, str]:
    """Returns mean, deviation, the images' size (None: not said) and how they become squares."""
    try:
        mean, std = (
            tuple(map(float, facts.get(key, usual)))
            for key, usual in zip(("mean", "std"), IMAGENET)
        )
        size = facts["input_size"][-1] if "input_size" in facts else None
        fit = FITS[facts.get("crop_mode", "center")]
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise ValueError("pretrained_cfg is of another kind than timm's") from error
    check_pixels(mean, std, size)
    return mean, std, size, fit


def _architecture(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name, "" for none, and its arguments. Raises ValueError for what is not read."""
    name, arguments = config.get("architecture", ""), config.get("model_args", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("architecture or model_args is of another kind than timm's")
    if name and not _CNN.fullmatch(name) and not all(map(_VIT.fullmatch, name.split("_"))):
        raise ValueError(
            f"timm's {plain(name)} is not read here; read are its ViTs of plain blocks, "
            "resnet50, resnet50d, seresnet50 and densenet121 of any depth, convnext_tiny and "
            "swin_tiny_patch4_window7_224 of any size"
        )
    unknown = {key for key, value in arguments.items() if value is not None} - _KNOWN
    activation = arguments.get("act_layer") or "gelu"
    if unknown or activation not in _ACTIVATIONS:
        found = ", ".join(sorted(unknown)) or f"act_layer {activation!r}"
        raise ValueError(f"model_args holds {plain(found)}, which is not read here")
    return name, arguments


def _fields(
    arrays: Mapping[str, np.ndarray], name: str, arguments: Mapping[str, Any], pooling: Any
) -> dict[str, Any]:
    fields: dict[str, Any] = {"antialias": True}
    norm_after = "fc_norm.weight" in arrays
    if norm_after or "cls_token" not in arrays or pooling == "avg":
        fields |= {"pooling": "mean", "norm_after_pooling": norm_after}
    elif "dist_token" in arrays:
        fields["pooling"] = "first_two"
    if "attn_pool.latent" in arrays:
        fields["pooling"] = "attention"
    if "norm_pre.weight" in arrays:  # CLIP's
        fields |= {"pre_norm": True, "epsilon": 1e-5}
    usual = "quick_gelu" if "quickgelu" in name else "gelu_tanh" if _TANH.search(name) else "gelu"
    activation = arguments.get("act_layer") or usual
    return fields | ({"activation": activation} if activation != "gelu" else {})


SOURCES = {"timm": load}

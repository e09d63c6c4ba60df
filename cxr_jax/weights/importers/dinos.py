"""DINOv2, DINOv3 and what was built on them: ViTs and, of DINOv3, ConvNeXts.

A folder as transformers has it or one of its files; mean, deviation, size and how an image becomes
a square are then those of preprocessor_config.json. Of a file alone, by source:

dinov2     DINOv2 (arXiv:2304.07193), with registers or without; also in its owner's layout
           (dinov2_vitb14_pretrain.pth): 224 px, ImageNet's mean and deviation. Positions are
           resampled to the image's own grid; that code, of files without registers, asks for a
           grid larger by .1, which moves them by up to .2 of a place
rad_dino   RAD-DINO (arXiv:2401.10815): 518 px, the mean and deviation of its preprocessing
cxformer   CXformer (Al-Mahrooqi et al., MIDL 2025; code: m42-health/CXformer): a DINOv2 with four
           registers, 518 px, ImageNet's mean and deviation
chexfound  CheXFound (arXiv:2502.05142; code: RPIDIAL/CheXFound): a training's teacher in DINOv2's
           own layout, a ViT-L/16 with SwiGLU and four registers, for 512 px, with ImageNet's mean
           and deviation. Its code stretches each image from its darkest to its brightest pixel;
           here it stays as it is
dinov3     DINOv3 (arXiv:2508.10104): 224 px, both sides brought to it, ImageNet's mean and
           deviation (those of its satellite images are others: read the folder); its ViTs also in
           their owner's layout (dinov3_vitb16_pretrain_….pth)

Features are the class token behind the last norm; of ConvNeXts the mean of the last map, normed.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, refuse_prefix, strip_prefix, without
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers import timm
from cxr_jax.weights.importers._cnn import IMAGENET
from cxr_jax.weights.importers._hierarchical import is_convnext, read_convnext
from cxr_jax.weights.importers._transformers import name_of, read_folder, vit_of
from cxr_jax.weights.importers._vit import (
    Layout,
    query_key_value,
    read_vit,
    stacked,
    without_key_bias,
)

DINOV2 = Layout(
    patches="embeddings.patch_embeddings.projection",
    positions="embeddings.position_embeddings",
    cls="embeddings.cls_token",
    block="encoder.layer.{}.",
    outer={"norm": "layernorm"},
    inner={
        "norm1": "norm1",
        **query_key_value("attention.attention.{part}"),
        "proj": "attention.output.dense",
        "scale1": "layer_scale1.lambda1",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "scale2": "layer_scale2.lambda1",
    },
    registers=("embeddings.register_tokens",),
)
# Their own code's, and CheXFound's.
OWN = timm.LAYOUT._replace(registers=("register_tokens",), has_place=True)
DINOV3 = Layout(
    patches="embeddings.patch_embeddings",
    positions="",
    cls="embeddings.cls_token",
    block="layer.{}.",
    outer={"norm": "norm"},
    inner={
        "norm1": "norm1",
        "qkv.kernel": stacked(*(f"attention.{part}_proj.weight" for part in "qkv")),
        "qkv.bias": without_key_bias("attention.q_proj.bias", "attention.v_proj.bias"),
        "proj": "attention.o_proj",
        "scale1": "layer_scale1.lambda1",
        "norm2": "norm2",
        "fc1": "mlp.up_proj",
        "fc2": "mlp.down_proj",
        "scale2": "layer_scale2.lambda1",
    },
    registers=("embeddings.register_tokens",),
)


def load_dinov2(
    path: str | Path,
    image_size: int = 224,
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
) -> Encoder:
    """Reads the encoder in a folder or a file; `image_size`, `pixels`: of files without JSON.

    The mask token, which stands for patches hidden in training, is passed over.
    """
    file, arrays, config, seen = read_folder(path, image_size, pixels)
    with errors_naming(file):
        registers = {OWN.registers[0], DINOV2.registers[0]} & arrays.keys()
        fields: dict[str, Any] = {"antialias": True} if registers else {}  # CheXFound does not
        if f"{OWN.patches}.weight" in arrays:
            return _of_owner(path, arrays, **fields)._replace(image_size=image_size)
        refuse_prefix(arrays, f"{DINOV2.patches}.weight", DINOV2.cls)
        arrays = without(arrays, "embeddings.mask_token")
        fields["layer_scale"] = 1.0
        gated = "encoder.layer.0.mlp.weights_in.weight" in arrays
        if config.get("use_swiglu_ffn", gated) is not gated:
            raise ValueError(f"use_swiglu_ffn is {not gated}, but its weights say {gated}")
        if gated:
            config = {**config, "hidden_act": "silu"}
        layout = _gated(DINOV2, "mlp.weights_in", "mlp.weights_out") if gated else DINOV2
        kind = ("silu" if gated else "gelu", 1e-6, fields)
        return vit_of(path, arrays, layout, config, seen, *kind)


def load_chexfound(path: str | Path) -> Encoder:
    """Reads the teacher's encoder; its heads are passed over."""
    arrays = read_arrays(path, containers=("teacher", "model"))
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("backbone.", ""), ("dino_head.", "ibot_head."))
        return _of_owner(path, arrays)


def _of_owner(path: str | Path, arrays: dict[str, np.ndarray], **fields: Any) -> Encoder:
    refuse_prefix(arrays, f"{OWN.patches}.weight", OWN.cls)
    gated = "blocks.0.mlp.w12.weight" in arrays
    layout = _gated(OWN, "mlp.w12", "mlp.w3") if gated else OWN
    fields |= {"activation": "swiglu"} if gated else {}
    pixels = dict(zip(("mean", "std"), IMAGENET))
    # Its width and depth tell the heads: 64 channels each.
    heads = arrays[OWN.cls].size // 64 or None if OWN.cls in arrays else None
    arrays = without(arrays, "mask_token")
    return read_vit(name_of(path), arrays, layout, heads=heads, **fields, **pixels)


def _gated(layout: Layout, first: str, second: str) -> Layout:
    return layout._replace(inner={**layout.inner, "fc1": first, "fc2": second})


def load_dinov3(path: str | Path) -> Encoder:
    """Reads the encoder in a folder or a file; the mask token is passed over."""
    file, arrays, config, seen = read_folder(path, 224, IMAGENET, "squash")
    with errors_naming(file):
        arrays = {key.removeprefix("model."): array for key, array in arrays.items()}
        if "storage_tokens" in arrays:
            arrays = transformers_names(arrays)
        if is_convnext(arrays):
            size, fit, *pixels = seen
            return read_convnext(name_of(path), arrays, size, tuple(pixels), fit)
        refuse_prefix(arrays, f"{DINOV3.patches}.weight", DINOV3.cls)
        arrays = without(arrays, "embeddings.mask_token")
        arrays = {k: a for k, a in arrays.items() if a.size or k not in DINOV3.registers}
        fields: dict[str, Any] = {"rope": "dinov3", "layer_scale": 1.0}
        layout, activation = DINOV3, "gelu"
        if "layer.0.mlp.gate_proj.weight" in arrays:
            parts = {
                f"fc1.{ours}": stacked(f"mlp.gate_proj.{theirs}", f"mlp.up_proj.{theirs}")
                for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
            }
            layout = layout._replace(inner={**layout.inner, **parts})
            activation = "silu"
        if "model_type" not in config and DINOV3.cls in arrays:
            width = arrays[DINOV3.cls].size  # 64 channels a head, but of the largest 128
            fields["heads"] = width // (128 if width == 4096 else 64) or None
        return vit_of(path, arrays, layout, config, seen, activation, 1e-5, fields, heads=6)


_RENAMED = {
    **{"patch_embed.proj.": "embeddings.patch_embeddings.", "cls_token": "embeddings.cls_token"},
    **{"storage_tokens": "embeddings.register_tokens", "blocks.": "layer."},
    **{".attn.": ".attention.", ".attention.proj.": ".attention.o_proj."},
    **{".ls1.gamma": ".layer_scale1.lambda1", ".ls2.gamma": ".layer_scale2.lambda1"},
    **{".fc1.": ".up_proj.", ".fc2.": ".down_proj."},
    **{".w1.": ".gate_proj.", ".w2.": ".up_proj.", ".w3.": ".down_proj."},
}
# Frequencies, which follow from the width; the norm of small crops, which only training reads.
_TRAINING = ("mask_token", "rope_embed.periods", "local_cls_norm.")


def transformers_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a DINOv3 ViT in its owner's layout under the keys that transformers gives it.

    The bias of keys is zero there, by a mask. Raises ValueError where it is not.
    """
    found = {}
    for key, array in without(arrays, *_TRAINING).items():
        if key.endswith(".qkv.bias"):
            array = np.where(arrays.get(f"{key}_mask", np.array(1)) == 1, array, 0)
            if array[len(array) // 3 : 2 * len(array) // 3].any():
                raise ValueError(f"{key}: the bias of keys is not masked")
        for theirs, name in _RENAMED.items():
            key = key.replace(theirs, name)
        where, packed, leaf = key.partition(".qkv.")
        if not packed:
            found[key] = array
        elif leaf != "bias_mask":
            parts = "qv" if leaf == "bias" else "qkv"
            split = dict(zip("qkv", np.split(array, 3)))
            found |= {f"{where}.{part}_proj.{leaf}": split[part] for part in parts}
    return found


SOURCES = {
    "dinov2": load_dinov2,
    "rad_dino": partial(load_dinov2, image_size=518, pixels=((0.5307,) * 3, (0.2583,) * 3)),
    "cxformer": partial(load_dinov2, image_size=518),
    "chexfound": load_chexfound,
    "dinov3": load_dinov3,
}

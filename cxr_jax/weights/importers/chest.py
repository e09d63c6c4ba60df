"""Encoders of chest X-rays in layouts of transformers: EVA-X, Ark+, MRM, MedMAE.

Mean, deviation, size and pooling are those of the owners' code.

eva_x     EVA-X (arXiv:2405.05237; code: hustvl/EVA-X): EVA-02 ViT-Ti, S, B /16 for 224 px. Features
          are the mean of the patches, normed, from which its fine-tuning starts
ark_plus  Ark+ (Ma et al., Nature 2025; code: jlianglab/Ark): the teacher, a Swin-L for 768 px, or a
          ConvNeXt or a Swin of another size, whose size a file does not tell; an image's sides are
          both brought to it. Features are those before the projector, which, like the heads of its
          tasks, is passed over
mrm       MRM (arXiv:2301.13155; code: RL4M/MRM-pytorch): a ViT-B/16 for 224 px. Features are the
          mean of the patches behind the last norm, as they meet the report there
medmae    Medical MAE (arXiv:2210.12843; code: lambert-x/medical_mae): ViT-S, B /16 for 224 px.
          Features are the class token, as in its linear probe; of fine-tuned files the mean of the
          patches, normed
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, strip_prefix, without
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers._cnn import IMAGENET
from cxr_jax.weights.importers._hierarchical import is_convnext, read_convnext, read_swin
from cxr_jax.weights.importers._vit import Layout, read_vit, stacked, without_key_bias
from cxr_jax.weights.importers.timm import LAYOUT

# EVA-02's own names, and timm's.
_EVAS = {
    **{"mlp.ffn_ln.": "mlp.norm.", "mlp.w12.": "mlp.fc1.", "mlp.w1.": "mlp.fc1_g."},
    **{"mlp.w2.": "mlp.fc1_x.", "mlp.w3.": "mlp.fc2."},
}
_DECODER = ("decoder_", "mask_token", "bert_encoder.", "bert_mlp.", "head.")


def load_eva_x(path: str | Path) -> Encoder:
    """Reads the encoder; rotary tables, the mask token and heads are passed over."""
    arrays = read_arrays(path, containers=("model_ema", "model", "module", "state_dict"))
    with errors_naming(path):
        refuse_prefix(arrays, "patch_embed.proj.weight", "pos_embed")
        arrays = {key: array for key, array in arrays.items() if "rope." not in key}
        arrays = without(arrays, "mask_token", "lm_head.", "head.")
        for old, new in _EVAS.items():
            arrays = {key.replace(old, new): array for key, array in arrays.items()}
        if "blocks.0.attn.q_proj.weight" in arrays:
            arrays = {re.sub(r"\.([qv])_bias$", r".\1_proj.bias", k): a for k, a in arrays.items()}
        width = arrays["pos_embed"].shape[-1] if "pos_embed" in arrays else 0
        return read_vit(
            Path(path).stem,
            arrays,
            _eva(arrays),
            heads=width // 64 or None,
            **{"rope": "eva", "activation": "swiglu", "antialias": True},
            **{"mlp_norm": "blocks.0.mlp.norm.weight" in arrays},
            **{"pooling": "mean", "norm_after_pooling": True},
            **{"mean": (0.49185243,) * 3, "std": (0.28509309,) * 3},
        )


def _eva(arrays: Mapping[str, np.ndarray]) -> Layout:
    """Returns the layout, which depends on what is packed."""
    packed, joint = "blocks.0.attn.q_proj.weight" not in arrays, "blocks.0.mlp.fc1.weight" in arrays
    bias = "attn.{}_bias" if packed else "attn.{}_proj.bias"
    query, value = bias.format("q"), bias.format("v")
    kernels = ("attn.qkv.weight",) if packed else tuple(f"attn.{p}_proj.weight" for p in "qkv")
    inner: dict[str, str | Source] = {
        **LAYOUT.inner,
        "qkv.kernel": Source(kernels, lambda *parts: _halves_first(np.concatenate(parts))),
        "qkv.bias": Source(
            (query, value), lambda q, v: _halves_first(without_key_bias("", "").join(q, v))
        ),
        "norm_mlp": "mlp.norm",
    }
    if not joint:
        inner["fc1.kernel"] = stacked("mlp.fc1_g.weight", "mlp.fc1_x.weight")
        inner["fc1.bias"] = stacked("mlp.fc1_g.bias", "mlp.fc1_x.bias")
    norm = "fc_norm" if "fc_norm.weight" in arrays else "norm"
    return LAYOUT._replace(outer={"norm": norm}, inner=inner, has_place=True)


def _halves_first(rows: np.ndarray) -> np.ndarray:
    """Orders queries' and keys' channels: pairs turned together lie half a head apart, not beside.

    Scores do not change where both are ordered alike; values, the last third, stay.
    """
    if len(rows) % (3 * 64):
        raise ValueError("no whole heads of 64 channels")
    third = len(rows) // 3
    turned = rows[: 2 * third].reshape(-1, 32, 2, *rows.shape[1:]).swapaxes(1, 2)
    return np.concatenate([turned.reshape(2 * third, *rows.shape[1:]), rows[2 * third :]])


def load_ark_plus(path: str | Path) -> Encoder:
    """Reads the teacher's encoder; heads and projector are passed over."""
    arrays = read_arrays(path, containers=("teacher", "state_dict", "model"))
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("module.", ""), ())
        arrays = without(arrays, "omni_heads.", "projector.")
        if is_convnext(arrays):
            return read_convnext(Path(path).stem, arrays, 224, IMAGENET, "squash")
        return read_swin(Path(path).stem, arrays, 768, IMAGENET, "squash")


def load_mae(path: str | Path, mean: float, std: float, pooling: str) -> Encoder:
    """Reads the encoder; decoder, text tower and heads are passed over."""
    arrays = read_arrays(path, containers=("model",))
    with errors_naming(path):
        refuse_prefix(arrays, "patch_embed.proj.weight", "pos_embed")
        arrays = without(arrays, *_DECODER)
        fields: dict[str, Any] = {"pooling": pooling, "mean": (mean,) * 3, "std": (std,) * 3}
        layout = LAYOUT._replace(has_place=True)
        if "fc_norm.weight" in arrays:
            fields |= {"pooling": "mean", "norm_after_pooling": True}
            layout = layout._replace(outer={"norm": "fc_norm"})
        return read_vit(Path(path).stem, arrays, layout, **fields)


SOURCES = {
    "eva_x": load_eva_x,
    "ark_plus": load_ark_plus,
    "mrm": partial(load_mae, mean=0.4978, std=0.2449, pooling="mean"),
    "medmae": partial(load_mae, mean=0.5056, std=0.252, pooling="class"),
}

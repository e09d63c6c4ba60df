"""torchvision's ViTs (vit_b_16, vit_b_32, vit_l_16, vit_l_32), read by the source `torchvision`."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD
from cxr_jax.weights._layouts.vit import read_vit, shape_of, tokens
from cxr_jax.weights.convert import of_file
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.key_prefix import refuse_prefix, without

_BLOCK = "encoder.layers.encoder_layer_{}."


def is_vit(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the keys spell one."""
    return any(f".{key}".endswith(".conv_proj.weight") for key in arrays)


def encoder(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Encoder:
    """Raises ValueError with all that does not fit, naming the file."""
    with of_file(path):
        refuse_prefix(arrays, "conv_proj.weight", "class_token")
        # Files from before torchvision 0.14 call the MLP's layers linear_1 and linear_2.
        arrays = {
            re.sub(r"\.mlp\.linear_([12])\.", lambda m: f".mlp.{3 * int(m[1]) - 3}.", key): array
            for key, array in without(arrays, "heads.").items()
        }
        positions = "encoder.pos_embedding"
        shape = shape_of(arrays, "conv_proj.weight", positions, _BLOCK.format(r"(\d+)"))
        model, variables = read_vit(
            shape | {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
            arrays,
            tokens("class_token", positions, has_place=True)
            | {"patch_embed": "conv_proj", "norm": "encoder.ln"},
            {
                "norm1": _BLOCK + "ln_1",
                "qkv.kernel": _BLOCK + "self_attention.in_proj_weight",
                "qkv.bias": _BLOCK + "self_attention.in_proj_bias",
                "proj": _BLOCK + "self_attention.out_proj",
                "norm2": _BLOCK + "ln_2",
                "fc1": _BLOCK + "mlp.0",
                "fc2": _BLOCK + "mlp.3",
            },
        )
    return Encoder(Path(path).stem, model, variables, shape["image_size"])

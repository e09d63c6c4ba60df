"""The image tower of OpenAI's CLIP with a ViT (arXiv:2103.00020): ViT-B/32, B/16, L/14.

Features are those of `encode_image`, the projection included. OpenAI's own files are TorchScript
programs, which are not read here; the state dict is, alone or in whole: with the package `clip`,
`torch.save(clip.load("ViT-B/32", jit=False)[0].state_dict(), "clip.pt")`. CheXzero and
CXR-RePaiR-CLIP, which have this layout, saw other pixels: their source is `chexzero`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr_jax.weights._layouts.vit import Layout, read_vit
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import Source, errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder

_TEXT = (
    *("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"),
    *("logit_scale", "input_resolution", "context_length", "vocab_size"),
)
_LAYOUT = Layout(
    patches="conv1",
    positions="positional_embedding",
    cls="class_embedding",
    block="transformer.resblocks.{}.",
    outer={
        "norm_pre": "ln_pre",
        "norm": "ln_post",
        "project.kernel": Source(("proj",), np.transpose),
    },
    inner={
        "norm1": "ln_1",
        "qkv.kernel": "attn.in_proj_weight",
        "qkv.bias": "attn.in_proj_bias",
        "proj": "attn.out_proj",
        "norm2": "ln_2",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    },
)


def load(path: str | Path) -> Encoder:
    """Reads the encoder below `visual.`; the text tower and its temperature are passed over.

    CLIP's own ResNets are refused.
    """
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return load_clip(path, mean, std)


def load_clip(path: str | Path, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """Reads the encoder as `load` does, for images normalised by `mean` and `std`."""
    arrays = read_arrays(path)
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("visual.",), _TEXT)
        if any(key.startswith("attnpool.") for key in arrays):
            raise ValueError(
                "this is a CLIP with a ResNet of its own kind; read are those with ViT"
            )
        if "proj" not in arrays or arrays["proj"].ndim != 2:
            raise ValueError("does not fit a CLIP: there is no visual.proj of two dimensions")
        return read_vit(
            Path(path).stem,
            arrays,
            _LAYOUT,
            pre_norm=True,
            projection=arrays["proj"].shape[-1],
            activation="quick_gelu",
            epsilon=1e-5,
            mean=tuple(mean),
            std=tuple(std),
        )

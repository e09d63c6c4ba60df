"""torchvision's ResNets of 18 to 152 layers (the form called v1.5), DenseNets and ViTs.

The architecture is read from the keys. Keys cannot tell v1.5 from v1, where a bottleneck's stride
of 2 is in its first 1x1 convolution: for those files the source is `torchvision_v1`. ImageNet's
mean and deviation; images of 224 px, or of the size of a ViT's position embeddings.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD, cnn_encoder
from cxr_jax.weights._layouts.vit import Layout, read_vit
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, refuse_prefix, without
from cxr_jax.weights.encoder import Encoder

_VIT = Layout(
    patches="conv_proj",
    positions="encoder.pos_embedding",
    cls="class_token",
    block="encoder.layers.encoder_layer_{}.",
    outer={"norm": "encoder.ln"},
    inner={
        "norm1": "ln_1",
        "qkv.kernel": "self_attention.in_proj_weight",
        "qkv.bias": "self_attention.in_proj_bias",
        "proj": "self_attention.out_proj",
        "norm2": "ln_2",
        "fc1": "mlp.0",
        "fc2": "mlp.3",
    },
)


def load(path: str | Path) -> Encoder:
    """Reads the encoder in the file; any float dtype becomes float32.

    Every key must be used and every variable found. Only the classifier (fc, classifier or heads),
    which an encoder lacks, and num_batches_tracked, which no computation reads, are passed over.
    """
    arrays = read_arrays(path)
    if any(f".{key}".endswith(".conv_proj.weight") for key in arrays):
        return _read_vit(path, arrays)
    # No resize to 256 first, as ImageNet's centre crop has it: it would cut the lung bases off.
    return cnn_encoder(path, arrays, image_size=224)


def _read_vit(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Encoder:
    with errors_naming(path):
        refuse_prefix(arrays, "conv_proj.weight", "class_token")
        # Files from before torchvision 0.14 call the MLP's layers linear_1 and linear_2.
        arrays = {
            re.sub(r"\.mlp\.linear_([12])\.", lambda m: f".mlp.{3 * int(m[1]) - 3}.", key): array
            for key, array in without(arrays, "heads.").items()
        }
        return read_vit(Path(path).stem, arrays, _VIT, mean=IMAGENET_MEAN, std=IMAGENET_STD)

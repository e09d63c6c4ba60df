"""REFERS (Zhou et al. 2022, Nature Machine Intelligence 4): a ViT-B/16 trained with reports.

The layout is that of its fine-tuning code. Images of 224 px with ImageNet's mean and deviation.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD
from cxr_jax.weights._layouts.vit import Layout, query_key_value, read_vit
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder

_LAYOUT = Layout(
    patches="embeddings.patch_embeddings",
    positions="embeddings.position_embeddings",
    cls="embeddings.cls_token",
    block="encoder.layer.{}.",
    outer={"norm": "encoder.encoder_norm"},
    inner={
        "norm1": "attention_norm",
        **query_key_value("attn.{part}"),
        "proj": "attn.out",
        "norm2": "ffn_norm",
        "fc1": "ffn.fc1",
        "fc2": "ffn.fc2",
    },
)


def load(path: str | Path) -> Encoder:
    """Reads the encoder below `transformer.`; the classifier, `head`, is passed over."""
    arrays = read_arrays(path)
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("transformer.",), ("head.weight", "head.bias"))
        return read_vit(Path(path).stem, arrays, _LAYOUT, mean=IMAGENET_MEAN, std=IMAGENET_STD)

"""REFERS (Zhou et al. 2022, Nature Machine Intelligence 4): a ViT-B/16 trained with reports.

The layout is that of its fine-tuning code. Images of 224 px with ImageNet's mean and deviation.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD
from cxr_jax.weights._layouts.vit import query_key_value, read_vit, shape_of, tokens
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder

_BLOCK = "encoder.layer.{}."


def load(path: str | Path) -> Encoder:
    """Reads the encoder below `transformer.`; the classifier, `head`, is passed over.

    Raises FileNotFoundError; ValueError with all that does not fit.
    """
    arrays = read_arrays(path)
    with errors_naming(path):
        arrays = strip_prefix(arrays, ("transformer.",), ("head.weight", "head.bias"))
        positions = "embeddings.position_embeddings"
        patches = "embeddings.patch_embeddings"
        shape = shape_of(arrays, patches + ".weight", positions, _BLOCK.format(r"(\d+)"))
        model, variables = read_vit(
            shape | {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
            arrays,
            tokens("embeddings.cls_token", positions, has_place=True)
            | {"patch_embed": patches, "norm": "encoder.encoder_norm"},
            {
                "norm1": _BLOCK + "attention_norm",
                **query_key_value(_BLOCK + "attn.{part}"),
                "proj": _BLOCK + "attn.out",
                "norm2": _BLOCK + "ffn_norm",
                "fc1": _BLOCK + "ffn.fc1",
                "fc2": _BLOCK + "ffn.fc2",
            },
        )
    return Encoder(Path(path).stem, model, variables, shape["image_size"])

"""MoCo v1 and v2 (arXiv:2003.04297): the query encoder of a checkpoint of its official code.

The checkpoint holds its weights under `state_dict`. ImageNet's mean and deviation, 224 px; for
MoCo-CXR and MedAug, which saw X-rays, the source is `moco_cxr`.
"""

from collections.abc import Sequence
from pathlib import Path

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD, cnn_encoder
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.convert import errors_naming, strip_prefix
from cxr_jax.weights.encoder import Encoder


def load(path: str | Path) -> Encoder:
    """Reads the encoder below `module.encoder_q.` (or `encoder_q.`).

    The key encoder, which follows it, the queue and the projector are passed over.
    """
    return load_moco(path, image_size=224)


def load_moco(
    path: str | Path,
    image_size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    negative_slope: float = 0.0,
) -> Encoder:
    """Reads the encoder as `load` does, for images of `image_size` normalised by these numbers."""
    arrays = read_arrays(path, containers=("state_dict",))
    with errors_naming(path):
        others = [
            f"{module}{name}" for module in ("module.", "") for name in ("encoder_k.", "queue")
        ]
        arrays = strip_prefix(arrays, ("module.encoder_q.", "encoder_q."), others)
    projectors = ("fc.", "classifier.", "classifier_group.")
    return cnn_encoder(
        path, arrays, image_size, mean, std, heads=projectors, negative_slope=negative_slope
    )

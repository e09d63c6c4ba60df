"""S2MTS2 (arXiv:2103.03629): MoCo's layout with a DenseNet-121 whose ReLUs leak by 0.1.

Images of 224 px, as the study of thirteen datasets read them, with ImageNet's mean and deviation.
"""

from pathlib import Path

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers.moco import load_moco


def load(path: str | Path) -> Encoder:
    """Reads the encoder as moco.load does."""
    return load_moco(path, image_size=224, negative_slope=0.1)

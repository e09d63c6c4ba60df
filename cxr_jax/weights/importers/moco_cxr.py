"""MoCo-CXR (arXiv:2010.05352) and MedAug (arXiv:2102.10663), which builds on its code.

MoCo's layout; images of 320 px with the mean and deviation of that code. ResNet-18 and 50,
DenseNet-121.
"""

from pathlib import Path

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers.moco import load_moco


def load(path: str | Path) -> Encoder:
    """Reads the encoder as moco.load does."""
    return load_moco(path, image_size=320, mean=(0.5020,) * 3, std=(0.085585,) * 3)

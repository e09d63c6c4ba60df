"""RAD-DINO (Pérez-García et al. 2025, arXiv:2401.10815): DINOv2's ViT-B/14 trained on X-rays.

DINOv2's layout; images of 518 px with the mean and deviation of its preprocessing.
"""

from pathlib import Path

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers.dinov2 import load_dinov2


def load(path: str | Path) -> Encoder:
    """Reads the encoder as dinov2.load does."""
    return load_dinov2(path, 518, mean=(0.5307,) * 3, std=(0.2583,) * 3)

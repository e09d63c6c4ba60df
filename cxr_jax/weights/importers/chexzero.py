"""CheXzero (Tiu et al. 2022) and CXR-RePaiR-CLIP (Endo et al. 2021): CLIP trained on MIMIC-CXR.

OpenAI's layout, with the pixels' mean and standard deviation of their own training images.
"""

from pathlib import Path

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers.clip import load_clip


def load(path: str | Path) -> Encoder:
    """Reads the encoder as clip.load does."""
    return load_clip(path, mean=(101.48761 / 255,) * 3, std=(83.43944 / 255,) * 3)

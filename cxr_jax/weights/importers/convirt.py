"""ConVIRT (arXiv:2010.00747): the image encoder, a ResNet-50 under torchvision's keys.

Its code saves it under `image_encoder`, beside text encoder and projectors; the study of thirteen
datasets, by itself. Images of 224 px with ImageNet's mean and deviation.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import cnn_encoder
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.encoder import Encoder


def load(path: str | Path) -> Encoder:
    """Reads the encoder."""
    return cnn_encoder(path, read_arrays(path, containers=("image_encoder",)), image_size=224)

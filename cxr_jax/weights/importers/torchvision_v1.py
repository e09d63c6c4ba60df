"""torchvision's ResNets trained with a bottleneck's stride in its first 1x1 convolution.

That is the ResNet-50 of the paper (arXiv:1512.03385), of Caffe and of Keras. ResNet-18 and 34,
which have no bottlenecks, read the same from either source.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import cnn_encoder
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.encoder import Encoder


def load(path: str | Path) -> Encoder:
    """Reads the encoder as torchvision.load does."""
    return cnn_encoder(path, read_arrays(path), image_size=224, stride_in_1x1=True)

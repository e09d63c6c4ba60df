"""As `torchvision`, for weights trained with a bottleneck's stride in its first 1x1 convolution.

That is the ResNet-50 of the paper (arXiv:1512.03385), of Caffe and of Keras. ResNet-18 and 34,
which have no bottlenecks, read the same from either source.
"""

from pathlib import Path

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.torchvision import load_resnet


def load(path: str | Path) -> Encoder:
    """As torchvision.load, errors included."""
    return load_resnet(path, stride_in_1x1=True)

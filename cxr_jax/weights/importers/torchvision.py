"""torchvision's ResNet-18, 34 and 50 (the form called v1.5), DenseNets and ViTs.

Which of them it is is read from the keys. Keys cannot tell v1.5 from v1, where a bottleneck's
stride of 2 sits in its first 1x1 convolution: for those files the source is `torchvision_v1`.
"""

from pathlib import Path

from cxr_jax.weights._layouts.cnn import cnn_encoder
from cxr_jax.weights.arrays import read_arrays
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers import _torchvision_vit


def load(path: str | Path) -> Encoder:
    """The encoder in the file; any float dtype becomes float32.

    Every key must be used and every variable found. Only the classifier (fc, classifier or heads),
    which an encoder lacks, and num_batches_tracked, which no computation reads, are passed over.

    Raises FileNotFoundError; ValueError naming the keys that are missing, unexpected, of a wrong
    shape or not finite, the prefix that all keys carry, or the architecture not supported.
    """
    arrays = read_arrays(path)
    if _torchvision_vit.is_vit(arrays):
        return _torchvision_vit.encoder(path, arrays)
    # No resize to 256 first, as ImageNet's centre crop has it: it would cut the lung bases off.
    return cnn_encoder(path, arrays, image_size=224)

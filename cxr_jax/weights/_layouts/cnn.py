"""The encoder in a file of torchvision's ResNet or DenseNet keys, whoever trained it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cxr_jax.weights._layouts.densenet import is_densenet, read_densenet
from cxr_jax.weights._layouts.resnet import read_resnet
from cxr_jax.weights.convert import of_file
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.key_prefix import without

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLASSIFIERS = ("fc.weight", "fc.bias", "classifier.weight", "classifier.bias")


def cnn_encoder(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    image_size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    heads: Sequence[str] = CLASSIFIERS,
    stride_in_1x1: bool = False,
    negative_slope: float = 0.0,
) -> Encoder:
    """The encoder of `arrays`, named after `path`, for images of `image_size`.

    `heads`: how the keys of what stands behind the features begin, which an encoder lacks.

    Raises ValueError with all that does not fit (see `fill`), naming the file.
    """
    with of_file(path):
        arrays = without(arrays, *heads)
        if is_densenet(arrays):
            model, variables = read_densenet(arrays, mean, std, negative_slope)
        else:
            model, variables = read_resnet(arrays, mean, std, stride_in_1x1)
    return Encoder(Path(path).stem, model, variables, image_size)

"""DenseNet encoders whose features equal torchvision's, weight for weight.

Huang et al., "Densely Connected Convolutional Networks", arXiv:1608.06993. Parameter names
follow torchvision: `features.denseblock1.denselayer2.conv1.weight` is
`denseblock1_denselayer2/conv1/kernel`.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax.models import _layers

_GROWTH = 32


_Conv = partial(_layers.Conv, kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"))


def _norm(train: bool, dtype: jnp.dtype, name: str) -> _layers.BatchNorm:
    return _layers.BatchNorm(not train, dtype, name=name)


class DenseLayer(nn.Module):
    """BN, 1x1, BN, 3x3, joined to what came in: [b h w c] -> [b h w c+32]."""

    negative_slope: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        relu = partial(nn.leaky_relu, negative_slope=self.negative_slope)
        y = relu(_norm(train, self.dtype, "norm1")(x))
        y = _Conv(4 * _GROWTH, 1, 1, self.dtype, name="conv1")(y)
        y = relu(_norm(train, self.dtype, "norm2")(y))
        y = _Conv(_GROWTH, 3, 1, self.dtype, name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """BN, 1x1 to half the channels, 2x2 mean: [b h w c] -> [b h/2 w/2 c/2]."""

    negative_slope: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        y = nn.leaky_relu(_norm(train, self.dtype, "norm")(x), self.negative_slope)
        y = _Conv(x.shape[-1] // 2, 1, 1, self.dtype, name="conv")(y)
        return nn.avg_pool(y, (2, 2), (2, 2))


class DenseNet(_layers.MeanOfMaps):
    """Grey images [b h w 1], float32 in [0, 1] -> pooled features [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter `conv0` as `mean`
    has entries. `dtype` is the compute dtype; all else is float32. `negative_slope` is that of
    every ReLU: 0, but 0.1 in S2MTS2. `norm_eval`: batch norm by the running statistics in training
    too, which then stay as they are. d is 1024 in DenseNet-121.
    """

    blocks: tuple[int, ...]
    negative_slope: float = 0.0
    norm_eval: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    dtype: str = "float32"

    @nn.compact
    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j d"]:
        """Returns the last feature map after its ReLU, float32."""
        dtype, train = jnp.dtype(self.dtype), train and not self.norm_eval
        relu = partial(nn.leaky_relu, negative_slope=self.negative_slope)
        x = _layers.normalised(images, self.mean, self.std)
        x = _Conv(64, 7, 2, dtype, name="conv0")(x)
        x = relu(_norm(train, dtype, "norm0")(x))
        x = _layers.max_pool(x)
        for block, size in enumerate(self.blocks, start=1):
            for layer in range(1, size + 1):
                name = f"denseblock{block}_denselayer{layer}"
                x = DenseLayer(self.negative_slope, dtype, name=name)(x, train)
            if block < len(self.blocks):
                x = Transition(self.negative_slope, dtype, name=f"transition{block}")(x, train)
        return relu(_norm(train, dtype, "norm5")(x)).astype(jnp.float32)

    def depth(self, name: str) -> int:
        """Returns the depth of parameters: 0 in the stem, k in block k and the transition after."""
        for prefix in ("denseblock", "transition"):
            if name.startswith(prefix):
                return int(name.removeprefix(prefix).partition("_")[0])
        return len(self.blocks) if name == "norm5" else 0


VARIANTS = {"121": (6, 12, 24, 16), "169": (6, 12, 32, 32), "201": (6, 12, 48, 32)}


def make(
    variant: str = "121",
    dtype: str = "float32",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    negative_slope: float = 0.0,
    norm_eval: bool = False,
) -> DenseNet:
    """Returns the DenseNet; ValueError for fields that make no sense. Fields of config.model:

    variant         "121", "169" or "201"
    negative_slope  of its activations below 0; 0: ReLU
    norm_eval       batch norm by its running statistics in training too (config.frozen_stages)
    """
    if variant not in VARIANTS:
        raise ValueError(f"no DenseNet variant {variant!r}; there are {', '.join(VARIANTS)}")
    _layers.check_pixels(mean, std, dtype)
    pixels = {"mean": tuple(mean), "std": tuple(std)}
    return DenseNet(VARIANTS[variant], negative_slope, norm_eval, **pixels, dtype=dtype)

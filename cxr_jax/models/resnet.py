"""ResNet encoders whose features equal torchvision's, weight for weight.

He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, in the v1.5 form
(stride of 2 in the 3x3 convolution of a bottleneck; `stride_in_1x1` gives the original v1).
Parameter names follow torchvision: `layer1.0.conv1.weight` is `layer1_0/conv1/kernel`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax.models import _layers


def _norm(train: bool, dtype: jnp.dtype, name: str, **kwargs: Any) -> _layers.BatchNorm:
    return _layers.BatchNorm(use_running_average=not train, dtype=dtype, name=name, **kwargs)


class BasicBlock(nn.Module):
    """3x3, 3x3 and a shortcut: [b h w c] -> [b h/stride w/stride width]."""

    width: int
    stride: int
    dtype: jnp.dtype
    last_scale_init: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        conv, norm = partial(_layers.Conv, dtype=self.dtype), partial(_norm, train, self.dtype)
        y = nn.relu(norm("bn1")(conv(self.width, 3, self.stride, name="conv1")(x)))
        y = conv(self.width, 3, 1, name="conv2")(y)
        y = norm("bn2", scale_init=self.last_scale_init)(y)
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, name="downsample_conv")(x)
            x = norm("downsample_bn")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut: [b h w c] -> [b h/stride w/stride 4*width]."""

    width: int
    stride: int
    dtype: jnp.dtype
    last_scale_init: Callable[..., Any]
    stride_in_1x1: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        conv, norm = partial(_layers.Conv, dtype=self.dtype), partial(_norm, train, self.dtype)
        stride1, stride2 = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = nn.relu(norm("bn1")(conv(self.width, 1, stride1, name="conv1")(x)))
        y = nn.relu(norm("bn2")(conv(self.width, 3, stride2, name="conv2")(y)))
        y = conv(4 * self.width, 1, 1, name="conv3")(y)
        y = norm("bn3", scale_init=self.last_scale_init)(y)
        if x.shape != y.shape:
            x = conv(4 * self.width, 1, self.stride, name="downsample_conv")(x)
            x = norm("downsample_bn")(x)
        return nn.relu(x + y)


class ResNet(_layers.MeanOfMaps):
    """Grey images [b h w 1], float32 in [0, 1] -> pooled features [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter `conv1` as `mean`
    has entries, so three-channel ImageNet weights read a grey image as torchvision would read it
    repeated. `dtype` is the compute dtype; all else is float32. d is widths[-1], four times that
    with bottlenecks. `remat` keeps only the blocks' inputs for the gradient and computes the rest
    again: less memory, a third more time, the same gradient.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False
    stem_kernel: int = 7
    stem_stride: int = 2
    max_pool: bool = True
    stride_in_1x1: bool = False
    zero_init_residual: bool = True
    remat: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    dtype: str = "float32"

    @nn.compact
    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j d"]:
        """Returns the last feature map, float32; i and j run from the image's upper left corner."""
        dtype = jnp.dtype(self.dtype)
        x = _layers.normalised(images, self.mean, self.std).astype(dtype)
        x = _layers.Conv(self.widths[0], self.stem_kernel, self.stem_stride, dtype, name="conv1")(x)
        x = nn.relu(_norm(train, dtype, "bn1")(x))
        if self.max_pool:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        block = Bottleneck if self.bottleneck else BasicBlock
        if self.remat:
            block = nn.remat(block, static_argnums=2)
        if self.bottleneck:
            block = partial(block, stride_in_1x1=self.stride_in_1x1)
        ones_or_zeros = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"layer{stage + 1}_{index}"
                x = block(width, stride, dtype, ones_or_zeros, name=name)(x, train)
        return x.astype(jnp.float32)

    def depth(self, name: str) -> int:
        """Returns the depth of the parameters `name` ("layer1_0"): 0 in the stem, k in stage k."""
        return int(name[len("layer")]) if name.startswith("layer") else 0


VARIANTS = {
    "18": {"stage_sizes": (2, 2, 2, 2)},
    "34": {"stage_sizes": (3, 4, 6, 3)},
    "50": {"stage_sizes": (3, 4, 6, 3), "bottleneck": True},
    "101": {"stage_sizes": (3, 4, 23, 3), "bottleneck": True},
    "152": {"stage_sizes": (3, 8, 36, 3), "bottleneck": True},
    # For CPUs, where XLA's convolutions run several times faster on small maps than on large ones
    # and the gradient of max-pool is slow: the stem goes to a quarter at once, 64 px end in 4x4.
    "small": {
        "stage_sizes": (1, 1, 1),
        "widths": (32, 64, 128),
        "stem_stride": 4,
        "max_pool": False,
    },
}


def make(
    variant: str,
    dtype: str = "float32",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    stride_in_1x1: bool = False,
    zero_init_residual: bool = True,
    remat: bool = False,
) -> ResNet:
    """Returns the ResNet named by `variant`: "18", "34", "50", "101", "152" or "small".

    Raises ValueError for fields that make no sense, as `stride_in_1x1` without bottlenecks.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no ResNet variant {variant!r}; there are {', '.join(VARIANTS)}")
    _layers.check_pixels(mean, std, dtype)
    if stride_in_1x1 and not VARIANTS[variant].get("bottleneck"):
        raise ValueError(f"stride_in_1x1 needs bottlenecks; ResNet {variant} has none")
    return ResNet(
        **VARIANTS[variant],
        stride_in_1x1=stride_in_1x1,
        zero_init_residual=zero_init_residual,
        remat=remat,
        mean=tuple(mean),
        std=tuple(std),
        dtype=dtype,
    )

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

from cxr_jax import xla
from cxr_jax.models import _layers


def _norm(train: bool, dtype: jnp.dtype, name: str, **kwargs: Any) -> _layers.BatchNorm:
    return _layers.BatchNorm(use_running_average=not train, dtype=dtype, name=name, **kwargs)


class Block(nn.Module):
    """Convolutions of `kernels` and a shortcut: [b h w c] -> [b h/stride w/stride out].

    3x3, 3x3; or a bottleneck, 1x1, 3x3, 1x1. `strided` is the number of the convolution with the
    stride. `d`: ResNet-D's shortcut (arXiv:1812.01187), a mean before a convolution of stride 1.
    `squeeze`: channels are scaled by what their means say (SE, arXiv:1709.01507).
    """

    widths: tuple[int, ...]
    kernels: tuple[int, ...]
    stride: int
    strided: int
    d: bool
    squeeze: bool
    dtype: jnp.dtype
    last_scale_init: Callable[..., Any]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        conv, norm = partial(_layers.Conv, dtype=self.dtype), partial(_norm, train, self.dtype)
        y, last = x, len(self.kernels)
        for number, (width, kernel) in enumerate(zip(self.widths, self.kernels), start=1):
            stride = self.stride if number == self.strided else 1
            made = conv(width, kernel, stride, name=f"conv{number}")
            if number < last:
                y = norm(f"bn{number}")(made(y), relu=True)
        y = _normed(norm(f"bn{last}", scale_init=self.last_scale_init), made, y)
        if self.squeeze:
            y = y * Squeeze(self.dtype, name="se")(y)
        if x.shape != y.shape:
            names, stride = ("downsample_conv", "downsample_bn"), self.stride
            if self.d:
                names, stride = ("downsample_1", "downsample_2"), 1
                x = _mean_of_pixels(x, self.stride)
            x = _normed(norm(names[1]), conv(y.shape[-1], 1, stride, name=names[0]), x)
        return _layers.relu(x + y)


def _normed(
    norm: _layers.BatchNorm, conv: _layers.Conv, x: Float[Array, "b h w c"]
) -> Float[Array, "b i j d"]:
    """Returns norm(conv(x)); on a GPU, where x is small beside it, from x and the kernel."""
    wider = conv.kernel_size == conv.stride == 1 and conv.features >= 4 * x.shape[-1]
    # In float32 a GPU's products are TF32, of which no variance may be made.
    good = xla.platform() == "gpu" and conv.dtype == jnp.bfloat16 and not norm.use_running_average
    if not (wider and good):
        return norm(conv(x))
    return norm(x.astype(conv.dtype), conv(x, apply=False)[0, 0])  # D's means are float32


def _mean_of_pixels(x: Float[Array, "b h w c"], stride: int) -> Float[Array, "b i j c"]:
    """Averages squares of `stride` pixels, of which an odd side's last holds fewer."""
    pad = [(0, -length % stride) for length in x.shape[1:3]]
    return nn.avg_pool(x, (stride, stride), (stride, stride), pad, count_include_pad=False)


class Squeeze(nn.Module):
    """Factors of channels, from their means: [b h w c] -> [b 1 1 c]."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
        conv, channels = partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype), x.shape[-1]
        hidden = max(8, (channels // 16 + 4) // 8 * 8)  # as timm rounds it
        x = nn.relu(conv(hidden, name="fc1")(x.mean((1, 2), keepdims=True)))
        return nn.sigmoid(conv(channels, name="fc2")(x))


class ResNet(_layers.MeanOfMaps):
    """Grey images [b h w 1], float32 in [0, 1] -> pooled features [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter `conv1` as `mean`
    has entries, so three-channel ImageNet weights read a grey image as torchvision would read it
    repeated. `dtype` is the compute dtype; all else is float32. d is widths[-1], four times that
    with bottlenecks. `remat` keeps only the blocks' inputs for the gradient and computes the rest
    again: less memory, a third more time, the same gradient. `d`: ResNet-D, a stem of three 3x3
    convolutions and other shortcuts; `squeeze`: SE-ResNet. `norm_eval`: batch norm by the running
    statistics in training too, which then stay as they are.
    """

    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False
    stem_kernel: int = 7
    stem_stride: int = 2
    max_pool: bool = True
    stride_in_1x1: bool = False
    d: bool = False
    squeeze: bool = False
    zero_init_residual: bool = True
    remat: bool = False
    norm_eval: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    dtype: str = "float32"

    @nn.compact
    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j d"]:
        """Returns the last feature map, float32; i and j run from the image's upper left corner."""
        dtype, train = jnp.dtype(self.dtype), train and not self.norm_eval
        x = _layers.normalised(images, self.mean, self.std).astype(dtype)
        x = self._stem(x, train, dtype)
        if self.max_pool:
            x = _layers.max_pool(x)
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        block = partial(
            nn.remat(Block, static_argnums=2) if self.remat else Block,
            kernels=kernels,
            strided=2 if self.bottleneck and not self.stride_in_1x1 else 1,
            d=self.d,
            squeeze=self.squeeze,
            dtype=dtype,
            last_scale_init=nn.initializers.zeros
            if self.zero_init_residual
            else nn.initializers.ones,
        )
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            widths = (width, width, 4 * width) if self.bottleneck else (width, width)
            for index in range(size):
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(widths, stride=stride, name=f"layer{stage + 1}_{index}")(x, train)
        return x.astype(jnp.float32)

    def _stem(self, x: Array, train: bool, dtype: jnp.dtype) -> Array:
        width, conv, norm = (
            self.widths[0],
            partial(_layers.Conv, dtype=dtype),
            partial(_norm, train, dtype),
        )
        if not self.d:
            x = conv(width, self.stem_kernel, self.stem_stride, name="conv1")(x)
            return norm("bn1")(x, relu=True)
        for number, half, stride in ((0, width // 2, self.stem_stride), (3, width // 2, 1)):
            x = conv(half, 3, stride, name=f"conv1_{number}")(x)
            x = norm(f"conv1_{number + 1}")(x, relu=True)
        return norm("bn1")(conv(width, 3, name="conv1_6")(x), relu=True)

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
    d: bool = False,
    squeeze: bool = False,
    zero_init_residual: bool = True,
    remat: bool = False,
    norm_eval: bool = False,
) -> ResNet:
    """Returns the ResNet named by `variant`: "18", "34", "50", "101", "152" or "small".

    Fields of config.model:

    variant             "18", "34", "50", "101", "152", or "small" for CPUs
    stride_in_1x1       a bottleneck has its stride in the first convolution (the original v1)
    d                   ResNet-D's stem and shortcuts (arXiv:1812.01187)
    squeeze             squeeze and excitation (arXiv:1709.01507)
    zero_init_residual  residual branches start from zero
    norm_eval           batch norm by its running statistics in training too (config.frozen_stages)

    Raises ValueError for fields that make no sense, as `stride_in_1x1` without bottlenecks.
    """
    fields = dict(locals())  # the arguments: all but `variant` are fields of the module
    if (variant := fields.pop("variant")) not in VARIANTS:
        raise ValueError(f"no ResNet variant {variant!r}; there are {', '.join(VARIANTS)}")
    _layers.check_pixels(mean, std, dtype)
    if stride_in_1x1 and not VARIANTS[variant].get("bottleneck"):
        raise ValueError(f"stride_in_1x1 needs bottlenecks; ResNet {variant} has none")
    return ResNet(**VARIANTS[variant], **fields | {"mean": tuple(mean), "std": tuple(std)})

"""Layers that models and objectives share: pixels, pooling, convolution and heads.

Convolution is Flax's, but for how XLA's CPU backend runs it: docs/performance.md says what each
difference is worth.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax import xla
from cxr_jax.models._batch_norm import BatchNorm

# torchvision's: normal with variance 2 / (kernel area * output channels).
_kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def normalised(
    images: Float[Array, "b h w 1"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    """Returns (images - mean) / std, with as many channels as `mean` has entries."""
    return (images - jnp.asarray(mean)) / jnp.asarray(std)


def check_pixels(mean: Sequence[float], std: Sequence[float], dtype: str) -> None:
    """Raises ValueError for a `mean` and `std` of other than 1 or 3 channels, an unknown dtype."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model dtype is {dtype!r}; use 'float32' or 'bfloat16'")
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ValueError(f"mean and std need 1 or 3 entries each, not {len(mean)} and {len(std)}")


class MeanOfMaps(nn.Module):
    """An encoder of images [b h w 1] whose features [b d] are `pool(maps(images, train))`."""

    def __call__(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b d"]:
        return self.pool(self.maps(images, train))

    def pool(self, maps: Float[Array, "b i j d"]) -> Float[Array, "b d"]:
        return maps.mean(axis=(1, 2))


class Conv(nn.Module):
    """A square convolution without a bias: [b h w c] -> [b i j features], in `dtype`.

    Padded by half the kernel on all sides, as torch pads ("SAME" pads a strided one elsewhere).
    """

    features: int
    kernel_size: int
    stride: int = 1
    dtype: str | jnp.dtype = "float32"
    kernel_init: Callable[..., Any] = _kaiming_fan_out

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], apply: bool = True
    ) -> Float[Array, "b i j d"] | Float[Array, "k k c d"]:
        """Returns the convolution, or without `apply` its kernel, as it would be applied."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        if not apply:
            return kernel
        x = x.astype(self.dtype)
        if xla.platform() != "cpu":
            return _convolve(x, kernel, self.stride)
        # For the kernel's gradient XLA's CPU backend transposes input and output, and would fuse
        # the norm and ReLU before into that: computed anew, in strides that miss every cache.
        fence = jax.lax.optimization_barrier
        convolve = _convolve if self.stride == 1 else _convolve_strided
        return fence(convolve(fence(x), kernel, self.stride))


def _convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int
) -> Float[Array, "b i j d"]:
    pad = len(kernel) // 2
    padding, layout = ((pad, pad), (pad, pad)), ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout
    )


# The same, its gradient by x as a product: the convolution of a stretched slope that it would be
# takes twice as long on the CPU.
_convolve_strided = jax.custom_vjp(_convolve, nondiff_argnums=(2,))


def _strided_forward(x, kernel, stride):
    return _convolve(x, kernel, stride), (x, kernel)


def _strided_backward(stride, residuals, slope):
    x, kernel = residuals
    _, by_x = jax.vjp(lambda x: _product_of_patches(x, kernel, stride), x)
    _, by_kernel = jax.vjp(lambda kernel: _convolve(x, kernel, stride), kernel)
    return *by_x(slope), *by_kernel(slope)


_convolve_strided.defvjp(_strided_forward, _strided_backward)


def _product_of_patches(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int
) -> Float[Array, "b i j d"]:
    """Does what `_convolve` does, from strided slices of x."""
    size, pad = len(kernel), len(kernel) // 2
    rows, columns = ((length + 2 * pad - size) // stride + 1 for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    slices = [
        x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(slices, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """Takes the largest of 3x3 pixels at a stride of 2, padded by one: Flax's nn.max_pool.

    Its gradient as well. There XLA looks for every maximum again and scatters, on a GPU by atomic
    additions, on the CPU in one thread; here the forward pass notes where each was, and every pixel
    collects from the four windows that it may be the maximum of. A TPU scatters faster than that.
    """
    return _largest(x) if xla.platform() == "tpu" else _pooled(x)


def _largest(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


_pooled = jax.custom_vjp(_largest)


def _pooled_forward(x):
    rows, columns = ((length - 1) // 2 + 1 for length in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    largest = where = None
    for number in range(9):
        i, j = divmod(number, 3)
        pixels = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        if number == 0:
            largest, where = pixels, jnp.zeros(pixels.shape, jnp.uint8)
        else:
            where = jnp.where(pixels > largest, jnp.uint8(number), where)
            largest = jnp.maximum(largest, pixels)  # passes NaN on
    return largest, (where, x.shape[1:3])


def _pooled_backward(residuals, slope):
    where, (height, width) = residuals
    total = jnp.zeros((len(slope), height, width, slope.shape[-1]), slope.dtype)
    for number in reversed(range(9)):  # the order in which XLA adds up: by windows
        i, j = divmod(number, 3)
        chosen = jnp.where(where == number, slope, 0)
        spread = [
            (at - 1, length - (at - 1) - (2 * count - 1), 1)
            for at, length, count in ((i, height, slope.shape[1]), (j, width, slope.shape[2]))
        ]
        zero = jnp.zeros((), slope.dtype)
        total += jax.lax.pad(chosen, zero, [(0, 0, 0), *spread, (0, 0, 0)])
    return (total,)


_pooled.defvjp(_pooled_forward, _pooled_backward)


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Does what nn.relu does; on a GPU its gradient reads the output, which is kept anyway.

    XLA would compute a residual block's sum again for it, from two arrays instead of one.
    """
    return _kept(x) if xla.platform() == "gpu" else nn.relu(x)


_kept = jax.custom_vjp(nn.relu)


def _kept_forward(x):
    y = jax.lax.optimization_barrier(nn.relu(x))
    return y, y


_kept.defvjp(_kept_forward, lambda y, slope: (jnp.where(y > 0, slope, 0),))


class MLP(nn.Module):
    """Linear-BN-ReLU for each width in `hidden`, then Linear to `out`: [b c] -> float32 [b out].

    `gelu` is GELU in ReLU's place.

    SimCLR's projector (arXiv:2002.05709, official code): hidden=(2048, 2048), out=128,
    out_bn=True; the last batch norm has a scale and no shift, as there.
    BYOL's projector and predictor (arXiv:2006.07733): hidden=(4096,), out=256.
    MoCo v2's: hidden=(2048,), out=128, hidden_bn=False, out_bias=True.

    Layers are named dense0, bn0, …, dense_out, bn_out. A linear layer before a batch norm has no
    bias, which the batch norm's own shift would absorb. `dtype` is the compute dtype; parameters,
    batch statistics ("batch_stats") and the output are float32.
    """

    hidden: tuple[int, ...]
    out: int
    hidden_bn: bool = True
    out_bn: bool = False
    out_bias: bool = False
    dtype: str = "float32"
    gelu: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b c"], train: bool) -> Float[Array, "b d"]:
        dtype = jnp.dtype(self.dtype)

        def norm(name: str, use_bias: bool) -> BatchNorm:
            return BatchNorm(not train, dtype, use_bias, name=name)

        for index, width in enumerate(self.hidden):
            use_bias = not self.hidden_bn
            x = nn.Dense(width, use_bias=use_bias, dtype=dtype, name=f"dense{index}")(x)
            if self.hidden_bn:
                x = norm(f"bn{index}", use_bias=True)(x)
            x = nn.gelu(x, approximate=False) if self.gelu else nn.relu(x)
        use_bias = self.out_bias and not self.out_bn
        x = nn.Dense(self.out, use_bias=use_bias, dtype=dtype, name="dense_out")(x)
        if self.out_bn:
            x = norm("bn_out", use_bias=self.out_bias)(x)
        return x.astype(jnp.float32)

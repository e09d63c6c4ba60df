"""Batch norm with gradients of its own, made for how XLA runs it on CPUs and GPUs.

docs/performance.md says what each difference to Flax's is worth.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax import xla

_BLOCK = 2048  # rows of a block, of those whose mean is taken


class BatchNorm(nn.Module):
    """Normalises each channel of [… c] by its batch, or by its running statistics.

    Flax's nn.BatchNorm (arXiv:1502.03167), with float32 statistics and parameters whatever `dtype`.
    There the sums and their gradients take a fifth of a training step on the CPU; here they are
    matrix products. With a `kernel` x @ kernel is normalised, by the batch. `relu` follows on.
    """

    use_running_average: bool
    dtype: str | jnp.dtype = "float32"
    use_bias: bool = True
    scale_init: Callable[..., Any] = nn.initializers.ones
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*b c"],
        kernel: Float[Array, "c d"] | None = None,
        relu: bool = False,
    ) -> Float[Array, "*b d"]:
        shape = x.shape[-1:] if kernel is None else kernel.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", self.scale_init, shape)
        bias = jnp.zeros(shape)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape)
        within = relu and not self.use_running_average and kernel is None
        within = within and xla.platform() == "gpu"
        if self.use_running_average:
            factor = scale * jax.lax.rsqrt(running_var.value + self.epsilon)
            y = (x - running_mean.value) * factor + bias
        else:
            if kernel is None:
                y, mean, var = _standardise(x, scale, bias, self.epsilon, within)
            else:
                y, mean, var = _standardise_product(x, kernel, scale, bias, self.epsilon)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        y = y.astype(self.dtype)
        return nn.relu(y) if relu and not within else y


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _standardise(
    x: Float[Array, "*b c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    relu: bool,
) -> tuple[Float[Array, "*b c"], Float[Array, " c"], Float[Array, " c"]]:
    """Returns (standardised x times `scale` plus `bias`; mean; variance), float32 or wider.

    The first rectified, if `relu`. Gradients flow through it alone: the others are for the running
    statistics.
    """
    return _forward(x, scale, bias, epsilon, relu)[0]


def _forward(x, scale, bias, epsilon, relu):
    mean = _mean(x)
    if x.dtype == jnp.bfloat16 and xla.platform() == "gpu":
        # In one reading with the mean. What it loses of a large mean x has lost by its rounding.
        var = jnp.maximum(_mean(jnp.square(_wide(x))) - jnp.square(mean), 0)
    else:
        var = _mean(jnp.square(x - mean))  # E[x²] - E[x]² loses the digits of a large mean
    deviation = jax.lax.rsqrt(var + epsilon)
    y = (x - mean) * (scale * deviation) + bias
    return (nn.relu(y) if relu else y, mean, var), (x, scale, bias, mean, deviation)


def _backward(epsilon, relu, residuals, slopes):
    x, scale, bias, mean, deviation = residuals

    def read(x):
        if not relu:
            return slopes[0], (x - mean) * deviation
        passed = (x - mean) * (scale * deviation) + bias > 0
        return jnp.where(passed, slopes[0], 0), (x - mean) * deviation

    slope, standard = read(x)
    up, along = _mean(slope), _mean(slope * standard)
    if relu:
        # What ReLU let pass is found anew: else XLA may write down the slope that is left, which
        # with reading it again is more than x.
        slope, standard = read(jax.lax.optimization_barrier(x))
    by_x = (scale * deviation) * (slope - up - standard * along)
    count = x.size // x.shape[-1]
    return by_x.astype(x.dtype), along * count, up * count


_standardise.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _standardise_product(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "c d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float,
) -> tuple[Float[Array, "b h w d"], Float[Array, " d"], Float[Array, " d"]]:
    """Does what `_standardise` does with x @ kernel, for d much larger than c.

    Mean and variance of a product follow from those of x, and its gradient is a sum of products
    with the slope and with x: what is of d channels is read twice less on the way there, and of
    seven times but two are left on the way back.
    """
    return _product_forward(x, kernel, scale, bias, epsilon)[0]


def _product_forward(x, kernel, scale, bias, epsilon):
    centre, wide = _mean(x), _wide(kernel)
    kept = jax.lax.optimization_barrier(x)  # else XLA keeps what x was made from as well
    covariance = _mean_product(kept, kept) - jnp.outer(centre, centre)
    spread = _exact(covariance, wide)  # covariances of x with the product
    mean, var = _exact(centre, wide), jnp.maximum((wide * spread).sum(axis=0), 0)
    deviation = jax.lax.rsqrt(var + epsilon)
    # As a product and a shift, which cuDNN does in one kernel, with a shortcut and its ReLU.
    scaled = (wide * (scale * deviation)).astype(x.dtype)
    y = _product(x, scaled) + (bias - _exact(centre, _wide(scaled))).astype(x.dtype)
    return (y, mean, var), (kept, kernel, scale, centre, spread, deviation)


def _product_backward(epsilon, residuals, slopes):
    x, kernel, scale, centre, spread, deviation = residuals
    slope, wide, factor = slopes[0].astype(x.dtype), _wide(kernel), scale * deviation
    up = _mean(slope)
    joint = _mean_product(x, slope) - jnp.outer(centre, up)
    along = (wide * joint).sum(axis=0) * deviation
    # The slope of the product is factor (slope - up - (x - centre) @ kernel deviation along).
    by_kernel = factor * (joint - spread * (deviation * along))
    back = _exact(wide * (factor * deviation * along), wide.T)
    by_x = _product(slope, (wide * factor).T.astype(x.dtype)) + _product(x, -back.astype(x.dtype))
    by_x = by_x - (_exact(wide, factor * up) - _exact(centre, back))
    count = x.size // x.shape[-1]
    gradients = by_x.astype(x.dtype), (by_kernel * count).astype(kernel.dtype)
    return *gradients, along * count, up * count


_standardise_product.defvjp(_product_forward, _product_backward)


@jax.custom_batching.custom_vmap
def _product(x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]) -> Float[Array, "b h w d"]:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel[None, None], (1, 1), "VALID", dimension_numbers=layout
    )


@_product.def_vmap
def _product_of_groups(groups, batched, x, kernel):
    # A kernel a group, as MoCo's: one convolution of all groups would have them for channels, which
    # XLA does not leave on their devices.
    by_x, by_kernel = ("g" * of_groups for of_groups in batched)
    return jnp.einsum(f"{by_x}bhwc,{by_kernel}cd->gbhwd", x, kernel), True


def _mean_product(x: Float[Array, "b h w c"], y: Float[Array, "b h w d"]) -> Float[Array, "c d"]:
    """Returns the mean over all rows of their products, which XLA adds up in parts."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum("bhwc,bhwd->cd", x, y, preferred_element_type=wide) / (x.size // x.shape[-1])


def _exact(x: Float[Array, "*n"], y: Float[Array, "*m"]) -> Float[Array, "*k"]:
    return jnp.matmul(x, y, precision="highest")


def _mean(x: Float[Array, "*b c"]) -> Float[Array, " c"]:
    rows = _wide(x).reshape(-1, x.shape[-1])
    if xla.platform() == "cpu":
        # In blocks: a product that runs over all rows adds up its rounding.
        length = math.gcd(len(rows), _BLOCK)
        ones = jnp.full((len(rows) // length, 1, length), 1 / length, rows.dtype)
        rows = (ones @ rows.reshape(-1, length, rows.shape[-1]))[:, 0]
    return rows.mean(axis=0)


def _wide(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

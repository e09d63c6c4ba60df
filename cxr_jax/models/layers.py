"""Convolution and batch norm as every model here uses them: Flax's, with what XLA's CPU backend
needs to run them well.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

# torchvision's: normal with variance 2 / (kernel area * output channels).
_kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, kernel: int, stride: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    """A square convolution without a bias, padded as torch pads: [b h w c] -> [b i j features]."""
    # Padding is spelt out because "SAME" pads a strided convolution on the other side than torch.
    pad = kernel // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        (stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        dtype=dtype,
        kernel_init=_kaiming_fan_out,
        conv_general_dilated=_fenced_convolution,
        name=name,
    )


def _fenced_convolution(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """A convolution whose input and output stand in memory as they are.

    For the kernel's gradient XLA's CPU backend transposes both, and would fuse the norm and ReLU
    before into that: computed anew, in strides that miss every cache.
    """
    fence = jax.lax.optimization_barrier if _on_cpu() else lambda array: array
    return fence(jax.lax.conv_general_dilated(fence(x), kernel, *args, **kwargs))


class BatchNorm(nn.Module):
    """Normalises each channel of [… c] by its batch, or by its running statistics.

    Flax's nn.BatchNorm (variance with the divisor n, momentum .9, float32 statistics and
    parameters whatever `dtype`, the same variable names), whose reductions take a sixth of a
    training step on the CPU; here they are matrix products. Ioffe and Szegedy, arXiv:1502.03167.
    """

    use_running_average: bool
    dtype: str | jnp.dtype = "float32"
    use_bias: bool = True
    scale_init: Callable[..., Any] = nn.initializers.ones
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", self.scale_init, shape)
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean, square = _mean(x), _mean(x**2)
            var = jnp.maximum(square - mean**2, 0)  # rounding may leave less
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        y = (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, shape)
        return y.astype(self.dtype)


def _mean(x: Float[Array, "*b c"]) -> Float[Array, " c"]:
    """Over all axes but the last."""
    rows = x.reshape(-1, x.shape[-1])
    if _on_cpu():
        return jnp.full((1, len(rows)), 1 / len(rows)).dot(rows)[0]
    return rows.mean(axis=0)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"

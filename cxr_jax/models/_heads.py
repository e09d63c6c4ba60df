"""Projector and predictor heads of the self-supervised objectives."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax.models._layers import BatchNorm


class MLP(nn.Module):
    """Linear-BN-ReLU for each width in `hidden`, then Linear to `out`: [b c] -> float32 [b out].

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
            x = nn.relu(x)
        use_bias = self.out_bias and not self.out_bn
        x = nn.Dense(self.out, use_bias=use_bias, dtype=dtype, name="dense_out")(x)
        if self.out_bn:
            x = norm("bn_out", use_bias=self.out_bias)(x)
        return x.astype(jnp.float32)

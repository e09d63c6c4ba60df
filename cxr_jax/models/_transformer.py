"""Blocks of a transformer, and SigLIP's pooling, in Flax: what `vit` builds encoders of."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from cxr_jax import xla
from cxr_jax.models._positions import rotated


def _swiglu(x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
    """Multiplies the second half of the channels by the SiLU of the first (arXiv:2002.05202)."""
    gate, value = jnp.split(x, 2, axis=-1)
    return nn.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
    "swiglu": _swiglu,
}
small_normal = nn.initializers.truncated_normal(0.02)
_NARROWEST = 192  # of published ViTs: DeiT's Ti (arXiv:2012.12877)


def block_kernel(width: int) -> Callable[..., Array]:
    """Returns how the matrices of a block of that width are drawn.

    A deviation of .02, as in DeiT, DINO and I-JEPA, suits the widths that are published. Narrower
    blocks would hardly change their input, and class tokens of all images be alike: theirs are
    Glorot-uniform, as in the first ViT's code and MAE's (docs/results/objectives.md).
    """
    return small_normal if width >= _NARROWEST else nn.initializers.glorot_uniform()


class Block(nn.Module):
    """Self-attention and MLP, each behind a layer norm and a shortcut: [b n d] -> [b n d].

    Queries and keys are turned by `angles`, where given. `mlp_norm`: a norm within the MLP.
    """

    heads: int
    hidden: int
    layer_scale: float
    activation: str
    epsilon: float
    dtype: jnp.dtype
    mlp_norm: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], angles: Float[Array, "*b n c"] | None = None
    ) -> Float[Array, "b n d"]:
        width = x.shape[-1]
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=block_kernel(width))
        y = dense(3 * width, name="qkv")(self._norm("norm1", x))
        y = y.reshape(*x.shape[:2], 3, self.heads, -1)
        if angles is not None:
            turned = rotated(y[:, :, :2], angles[..., None, None, :])
            y = jnp.concatenate([turned, y[:, :, 2:]], axis=2)
        y = dense(width, name="proj")(attend(y[:, :, 0], y[:, :, 1], y[:, :, 2]).reshape(x.shape))
        x = x + self._scaled("scale1", y)
        hidden = self.hidden * (2 if self.activation == "swiglu" else 1)
        y = dense(hidden, name="fc1")(self._norm("norm2", x))
        y = ACTIVATIONS[self.activation](y)
        y = dense(width, name="fc2")(self._norm("norm_mlp", y) if self.mlp_norm else y)
        return x + self._scaled("scale2", y)

    def _norm(self, name: str, x: Array) -> Array:
        return layer_norm(self.epsilon, self.dtype, name=name)(x)

    def _scaled(self, name: str, x: Array) -> Array:
        if not self.layer_scale:
            return x
        start = nn.initializers.constant(self.layer_scale)
        return x * self.param(name, start, x.shape[-1:]).astype(self.dtype)


def attend(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b m heads d"],
    value: Float[Array, "b m heads d"],
    mask: Bool[Array, "b #n m"] | None = None,
    causal: bool = False,
) -> Float[Array, "b n heads d"]:
    """Softmax attention; of bfloat16 on a GPU by cuDNN's fused kernel, where JAX can use it.

    A query attends to the keys where `mask` is True and, if `causal`, to none behind it. The fused
    kernel never writes the [b heads n m] weights to memory. JAX gives it even numbers of tokens
    only, so that odd ones are padded, and said to be shorter or masked.
    """
    plain = partial(jax.nn.dot_product_attention, is_causal=causal)
    if xla.platform() == "gpu" and query.dtype == jnp.bfloat16:
        b, n, m = len(query), query.shape[1], key.shape[1]
        among, lengths = None, {}
        if mask is not None:
            among = jnp.broadcast_to(mask[:, None], (b, 1, n, m))
            among = jnp.pad(among, ((0, 0), (0, 0), (0, n % 2), (0, m % 2)))
        elif n % 2 or m % 2:
            named = {"query_seq_lengths": n, "key_value_seq_lengths": m}
            lengths = {name: jnp.full(b, count, jnp.int32) for name, count in named.items()}
        fused = partial(plain, mask=among, implementation="cudnn", **lengths)
        even = [
            jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
        ]
        try:
            jax.eval_shape(fused, *even)
        except (RuntimeError, NotImplementedError):  # no cuDNN here; heads that it does not take
            pass
        else:
            return fused(*even)[:, :n]
    return plain(query, key, value, mask=mask if mask is None else mask[:, None])


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    # The fast variance, E[x²] - E[x]², loses the digits of channels with a large mean.
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class AttentionPool(nn.Module):
    """SigLIP's pooling: a learnt query attends to all tokens, an MLP follows: [b n d] -> [b d]."""

    heads: int
    hidden: int
    activation: str
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        b, n, width = tokens.shape
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=small_normal)
        probe = self.param("probe", small_normal, (width,)).astype(self.dtype)
        query = jnp.broadcast_to(dense(width, name="q")(probe), (b, width))
        kv = dense(2 * width, name="kv")(tokens).reshape(b, n, 2, self.heads, -1)
        query = query.reshape(b, 1, self.heads, -1)
        x = jax.nn.dot_product_attention(query, kv[:, :, 0], kv[:, :, 1])
        x = dense(width, name="proj")(x.reshape(b, width))
        y = dense(self.hidden, name="fc1")(layer_norm(self.epsilon, self.dtype, "norm")(x))
        return x + dense(width, name="fc2")(ACTIVATIONS[self.activation](y))

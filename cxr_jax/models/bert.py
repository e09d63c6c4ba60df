"""BERT (Devlin et al. 2019, arXiv:1810.04805) as an encoder of one sentence or report."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cxr_jax.config import Section, check_fields

_normal = nn.initializers.truncated_normal(0.02)
_EPSILON = 1e-12
_REQUIRED = ("vocabulary", "width", "num_blocks")
_DEFAULTS = {"heads": 0, "hidden": 0, "positions": 512, "pooling": "max", "dtype": "float32"}


class Embeddings(nn.Module):
    """Tokens [b l] -> [b l width]: token plus place, normalised."""

    vocabulary: int
    positions: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l width"]:
        word = self.param("word", _normal, (self.vocabulary, self.width))
        position = self.param("position", _normal, (self.positions, self.width))
        x = word[tokens] + position[: tokens.shape[1]]
        return _norm("norm", self.dtype)(x).astype(self.dtype)


class Block(nn.Module):
    """Self-attention, then an MLP, each added to its input and normalised: [b l d] -> [b l d]."""

    heads: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], mask: Bool[Array, "b l"]) -> Float[Array, "b l d"]:
        b, length, width = x.shape
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_normal)
        qkv = dense(3 * width, name="qkv")(x).reshape(b, length, 3, self.heads, -1)
        y = jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask=mask[:, None, None, :]
        )
        y = dense(width, name="proj")(y.reshape(x.shape))
        x = _norm("norm1", self.dtype)(x + y)
        y = nn.gelu(dense(self.hidden, name="fc1")(x), approximate=False)
        return _norm("norm2", self.dtype)(x + dense(width, name="fc2")(y))


def _norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    return nn.LayerNorm(_EPSILON, dtype=dtype, use_fast_variance=False, name=name)


class Bert(nn.Module):
    """Tokens int32 [b l] and their mask [b l] -> one vector [b width], float32.

    Where the mask is False there is no token: nothing attends to it and it is not pooled. Every
    row must have a token. A text is one segment, whose embedding the places' contains. No dropout.
    `pooling`: "max" or "mean" over all tokens, those of beginning and end included. `dtype` is the
    compute dtype; parameters are float32. Parameters: "embeddings", "layer_0" and so on.
    """

    vocabulary: int
    width: int
    num_blocks: int
    heads: int
    hidden: int
    positions: int
    pooling: str
    dtype: str

    def setup(self) -> None:
        dtype = jnp.dtype(self.dtype)
        self.embeddings = Embeddings(self.vocabulary, self.positions, self.width, dtype)
        self.layer = [Block(self.heads, self.hidden, dtype) for _ in range(self.num_blocks)]

    def __call__(
        self, tokens: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b width"]:
        x = self.states(tokens, mask).astype(jnp.float32)
        real = mask[:, :, None]
        if self.pooling == "max":
            return jnp.where(real, x, -jnp.inf).max(axis=1)
        return jnp.where(real, x, 0).sum(axis=1) / real.sum(axis=1)

    def states(
        self, tokens: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b l width"]:
        """Returns every token's vector after the last block, in the compute dtype."""
        x = self.embeddings(tokens)
        for block in self.layer:
            x = block(x, mask)
        return x


def make_text_encoder(fields: Section, where: str) -> Bert:
    """Returns the encoder of a section of a config; ValueError, naming `where`, for a wrong field.

    Fields of config.objective.text, of which vocabulary, width and num_blocks are required:

    vocabulary  how many tokens it knows
    width       of a token; BERT's base: 768
    num_blocks  its depth; 12
    heads       of attention; 0: one for 64 channels
    hidden      width of the MLP; 0: four times that of the tokens
    positions   the longest text, in tokens; 512
    pooling     of the tokens, "max" or "mean"; "max"
    dtype       of the computation, "float32" or "bfloat16"; "float32"
    """
    check_fields(fields, where, _REQUIRED, _DEFAULTS)
    given = _DEFAULTS | dict(fields)
    heads, width = given["heads"] or given["width"] // 64, given["width"]
    if heads < 1 or width % heads:
        raise ValueError(
            f"{where}.width={width} is no multiple of the {heads} heads; set {where}.heads"
        )
    if given["pooling"] not in ("max", "mean"):
        raise ValueError(f"{where}.pooling is {given['pooling']!r}; use 'max' or 'mean'")
    if given["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"{where}.dtype is {given['dtype']!r}; use 'float32' or 'bfloat16'")
    return Bert(**given | {"heads": heads, "hidden": given["hidden"] or 4 * width})

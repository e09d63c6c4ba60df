"""Transformers that read one sentence or report: BERT (Devlin et al. 2019, arXiv:1810.04805), and
with other fields the text towers of CLIP (Radford et al. 2021, arXiv:2103.00020) and SigLIP (Zhai
et al. 2023, arXiv:2303.15343)."""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cxr_jax.config import Section, check_fields
from cxr_jax.models._transformer import ACTIVATIONS, attend

_normal = nn.initializers.truncated_normal(0.02)
_EPSILON = {"bert": 1e-12, "clip": 1e-5, "siglip": 1e-6}
_REQUIRED = ("vocabulary", "width", "num_blocks")
_DEFAULTS = {
    **{"heads": 0, "hidden": 0, "positions": 512, "pooling": "max", "dtype": "float32"},
    **{"kind": "bert", "activation": "gelu", "projection": 0, "last": 1},
    "fill": 0,
}
_CHOICES = {
    "pooling": ("max", "mean", "first", "last"),
    "dtype": ("float32", "bfloat16"),
    "kind": tuple(_EPSILON),
    "activation": tuple(ACTIVATIONS),
}


class Embeddings(nn.Module):
    """Tokens [b l] -> [b l width]: token plus place, BERT's normalised."""

    vocabulary: int
    positions: int
    width: int
    kind: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l width"]:
        word = self.param("word", _normal, (self.vocabulary, self.width))
        position = self.param("position", _normal, (self.positions, self.width))
        x = word[tokens] + position[: tokens.shape[1]]
        if self.kind == "bert":
            x = _norm("norm", self.kind, self.dtype)(x)
        return x.astype(self.dtype)


class Block(nn.Module):
    """Self-attention, then an MLP, each with a shortcut and a norm: [b l d] -> [b l d].

    BERT's norms act on the sums, the others' on what enters attention and MLP.
    """

    heads: int
    hidden: int
    kind: str
    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], mask: Bool[Array, "b #l l"]
    ) -> Float[Array, "b l d"]:
        b, length, width = x.shape
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=_normal)
        norm1, norm2 = (_norm(name, self.kind, self.dtype) for name in ("norm1", "norm2"))
        before, behind = (lambda norm, x: x), (lambda norm, x: norm(x))
        if self.kind != "bert":
            before, behind = behind, before
        qkv = dense(3 * width, name="qkv")(before(norm1, x)).reshape(b, length, 3, self.heads, -1)
        y = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask)
        y = dense(width, name="proj")(y.reshape(x.shape))
        x = behind(norm1, x + y)
        y = ACTIVATIONS[self.activation](dense(self.hidden, name="fc1")(before(norm2, x)))
        return behind(norm2, x + dense(width, name="fc2")(y))


def _norm(name: str | None, kind: str, dtype: jnp.dtype) -> nn.LayerNorm:
    return nn.LayerNorm(_EPSILON[kind], dtype=dtype, use_fast_variance=False, name=name)


class Bert(nn.Module):
    """Tokens int32 [b l] and their mask [b l] -> one vector [b width], float32.

    Where the mask is False there is no token: nothing attends to it and it is not pooled. Every
    row must have a token, the first place too. A text is one segment, whose embedding the places'
    contains. No dropout. `pooling`: "max" or "mean" over all tokens, those of beginning and end
    included, or the "first" or "last" of them alone. `dtype` is the compute dtype; parameters are
    float32. Parameters: "embeddings", "layer_0" and so on; "norm" behind the blocks, but BERT's;
    "project", a linear map of the vector to [b projection] where `projection` is not 0. Where
    `fill` is not 0 that token stands in every place without one, and is a token like any other.
    """

    vocabulary: int
    width: int
    num_blocks: int
    heads: int
    hidden: int
    positions: int
    pooling: str
    dtype: str
    kind: str = "bert"
    activation: str = "gelu"
    projection: int = 0
    last: int = 1
    fill: int = 0

    def setup(self) -> None:
        dtype, kind = jnp.dtype(self.dtype), self.kind
        self.embeddings = Embeddings(self.vocabulary, self.positions, self.width, kind, dtype)
        block = partial(Block, self.heads, self.hidden, kind, self.activation, dtype)
        self.layer = [block() for _ in range(self.num_blocks)]
        if kind != "bert":
            self.norm = _norm(None, kind, dtype)
        if self.projection:
            self.project = nn.Dense(
                self.projection, use_bias=False, dtype=dtype, kernel_init=_normal
            )

    def __call__(self, tokens: Int[Array, "b l"], mask: Bool[Array, "b l"]) -> Float[Array, "b d"]:
        x = self.states(tokens, mask).astype(jnp.float32)
        x = self._pooled(x, mask | bool(self.fill))
        return self.project(x).astype(jnp.float32) if self.projection else x

    def states(
        self, tokens: Int[Array, "b l"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b l width"]:
        """Returns every token's vector after the last block (and norm, but BERT's), or blocks."""
        if self.fill:
            tokens, mask = jnp.where(mask, tokens, self.fill), jnp.ones_like(mask)
        x, seen = self.embeddings(tokens), mask[:, None]
        if self.kind == "clip":  # no token sees those behind it
            seen = seen & jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        after = []
        for block in self.layer:
            x = block(x, seen)
            after.append(x)
        return self.norm(x) if self.kind != "bert" else sum(after[-self.last :])

    def _pooled(
        self, x: Float[Array, "b l width"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b width"]:
        real = mask[:, :, None]
        match self.pooling:
            case "max":
                return jnp.where(real, x, -jnp.inf).max(axis=1)
            case "mean":
                return jnp.where(real, x, 0).sum(axis=1) / real.sum(axis=1)
            case "first":
                return x[:, 0]
        return jnp.take_along_axis(x, real.sum(axis=1, keepdims=True) - 1, axis=1)[:, 0]


def make_text_encoder(fields: Section, where: str) -> Bert:
    """Returns the encoder of a section of a config; ValueError, naming `where`, for a wrong field.

    Fields of config.objective.text, of which vocabulary, width and num_blocks are required:

    vocabulary  how many tokens it knows
    width       of a token; BERT's base: 768
    num_blocks  its depth; 12
    heads       of attention; 0: one for 64 channels
    hidden      width of the MLP; 0: four times that of the tokens
    positions   the longest text, in tokens; 512
    kind        "bert"; "siglip": norms before attention and MLP, and behind all; "clip": the same,
                and a token sees those before it alone; "bert"
    activation  of the MLP: "gelu", "gelu_tanh" or "quick_gelu" (CLIP's); "gelu"
    pooling     of the tokens, "max", "mean", "first" or "last" (CLIP's); "max"
    projection  a linear map of what was pooled to so many channels; 0: none
    last        how many of the last blocks' outputs are added up (GLoRIA: 4); 1
    fill        the number of the token that fills a text up to the last place (SigLIP: 1), which is
                a token like any other; 0: none
    dtype       of the computation, "float32" or "bfloat16"; "float32"
    """
    check_fields(fields, where, _REQUIRED, _DEFAULTS)
    given = _DEFAULTS | dict(fields)
    heads, width = given["heads"] or given["width"] // 64, given["width"]
    if heads < 1 or width % heads:
        raise ValueError(
            f"{where}.width={width} is no multiple of the {heads} heads; set {where}.heads"
        )
    for name, choices in _CHOICES.items():
        if given[name] not in choices:
            known = " or ".join(map(repr, choices))
            raise ValueError(f"{where}.{name} is {given[name]!r}; use {known}")
    if not 0 <= given["fill"] < given["vocabulary"]:
        raise ValueError(f"{where}.fill={given['fill']} is no token of {given['vocabulary']}")
    most = given["num_blocks"] if given["kind"] == "bert" else 1
    if not 1 <= given["last"] <= most:
        raise ValueError(f"{where}.last is {given['last']!r}; of {most} it must be 1 or more")
    return Bert(**given | {"heads": heads, "hidden": given["hidden"] or 4 * width})

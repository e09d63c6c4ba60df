"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929) as others publish them.

With the parts that DeiT, MAE, DINO, DINOv2 (arXiv:2304.07193; register tokens: arXiv:2309.16588)
and CLIP (arXiv:2103.00020) need, so that their weights give their features.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax import xla
from cxr_jax.models._layers import check_pixels, normalised
from cxr_jax.models._positions import resample

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # CLIP's
}
_small_normal = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Self-attention and MLP, each behind a layer norm and a shortcut: [b n d] -> [b n d]."""

    heads: int
    hidden: int
    layer_scale: float
    activation: str
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        width = x.shape[-1]
        y = self._norm("norm1", x)
        y = self._dense("qkv", 3 * width, y).reshape(*x.shape[:2], 3, self.heads, -1)
        y = self._dense("proj", width, _attend(y).reshape(x.shape))
        x = x + self._scaled("scale1", y)
        y = self._dense("fc1", self.hidden, self._norm("norm2", x))
        y = self._dense("fc2", width, ACTIVATIONS[self.activation](y))
        return x + self._scaled("scale2", y)

    def _norm(self, name: str, x: Array) -> Array:
        return _layer_norm(self.epsilon, self.dtype, name=name)(x)

    def _dense(self, name: str, width: int, x: Array) -> Array:
        return nn.Dense(width, dtype=self.dtype, kernel_init=_small_normal, name=name)(x)

    def _scaled(self, name: str, x: Array) -> Array:
        if not self.layer_scale:
            return x
        start = nn.initializers.constant(self.layer_scale)
        return x * self.param(name, start, x.shape[-1:]).astype(self.dtype)


def _attend(qkv: Float[Array, "b n 3 heads d"]) -> Float[Array, "b n heads d"]:
    """Softmax attention; of bfloat16 on a GPU by cuDNN's fused kernel, where JAX can use it.

    That one never writes the [b heads n n] weights to memory. JAX gives it an even number of tokens
    only, so that an odd one is padded, and said to be shorter.
    """
    attend, count = jax.nn.dot_product_attention, qkv.shape[1]
    if xla.platform() == "gpu" and qkv.dtype == jnp.bfloat16:
        even = jnp.pad(qkv, ((0, 0), (0, count % 2), (0, 0), (0, 0), (0, 0)))
        lengths = jnp.full(len(qkv), count, jnp.int32) if count % 2 else None
        fused = partial(
            attend,
            implementation="cudnn",
            query_seq_lengths=lengths,
            key_value_seq_lengths=lengths,
        )
        parts = (even[:, :, 0], even[:, :, 1], even[:, :, 2])
        try:
            jax.eval_shape(fused, *parts)
        except (RuntimeError, NotImplementedError):  # no cuDNN here; heads that it does not take
            pass
        else:
            return fused(*parts)[:, :count]
    return attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])


def _layer_norm(epsilon: float, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    # The fast variance, E[x²] - E[x]², loses the digits of channels with a large mean.
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class ViT(nn.Module):
    """Grey images [b h w 1], float32 in [0, 1] -> features [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter the patch embedding
    as `mean` has entries. Rows and columns beyond the last whole patch are not seen. `dtype` is the
    compute dtype; parameters and output are float32. d is `width`, or `projection` if that is set.

    Tokens are the class token, the registers, the patches, in this order; only patches have a
    position embedding (other people's of the class token is added to the token when it is loaded).
    It is learnt for images of `image_size` pixels and resampled for others.

    The features are `pool(maps(images, train))`. Methods for objectives that mask patches: `embed`
    gives the patches of an image, `encode` the tokens of any of them.
    """

    width: int
    num_blocks: int
    heads: int
    hidden: int
    patch: int
    image_size: int
    class_token: bool = True
    registers: int = 0
    pooling: str = "class"
    norm_after_pooling: bool = False
    layer_scale: float = 0.0
    pre_norm: bool = False
    projection: int = 0
    activation: str = "gelu"
    epsilon: float = 1e-6
    antialias: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        dtype, grid = jnp.dtype(self.dtype), self.image_size // self.patch
        square = (self.patch, self.patch)
        self.patch_embed = nn.Conv(
            self.width, square, square, padding="VALID", use_bias=not self.pre_norm, dtype=dtype
        )
        self.positions = self.param("positions", _small_normal, (grid * grid, self.width))
        if self.class_token:
            self.cls = self.param("cls", _small_normal, (self.width,))
        if self.registers:
            shape = (self.registers, self.width)
            self.register_tokens = self.param("register_tokens", _small_normal, shape)
        if self.pre_norm:
            self.norm_pre = _layer_norm(self.epsilon, dtype)
        block = nn.remat(Block) if self.remat else Block
        shared = (self.heads, self.hidden, self.layer_scale, self.activation, self.epsilon, dtype)
        self.block = [block(*shared) for _ in range(self.num_blocks)]
        self.norm = _layer_norm(self.epsilon, dtype)
        if self.projection:
            self.project = nn.Dense(
                self.projection, use_bias=False, dtype=dtype, kernel_init=_small_normal
            )

    def __call__(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b d"]:
        patches = self.embed(images)
        tokens = self._before_last(patches.reshape(len(patches), -1, self.width))
        return self._pooled(self.block[-1](tokens))

    def embed(self, images: Float[Array, "b h w 1"]) -> Float[Array, "b i j width"]:
        """Returns the image's patches, with their position embedding, in the compute dtype."""
        x = normalised(images, self.mean, self.std)
        patches = self.patch_embed(x.astype(self.dtype))
        grid = self.image_size // self.patch
        positions = self.positions.reshape(grid, grid, self.width)
        positions = resample(positions, *patches.shape[1:3], self.antialias)
        return patches + positions.astype(self.dtype)

    def encode(self, patches: Float[Array, "b n width"]) -> Float[Array, "b t width"]:
        """Returns all tokens after the last block and norm, float32, the prefix first."""
        return self.norm(self.block[-1](self._before_last(patches))).astype(jnp.float32)

    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j c"]:
        """Returns the patch tokens as they enter the last block, float32.

        The class token and the registers, as they are by then, follow each patch's own channels,
        the same at every place: `pool` needs them, and they have no place on the image.
        """
        patches = self.embed(images)
        batch, rows, columns, _ = patches.shape
        tokens = self._before_last(patches.reshape(batch, -1, self.width)).astype(jnp.float32)
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        everywhere = jnp.broadcast_to(
            prefix.reshape(batch, 1, 1, -1), (batch, rows, columns, self.num_prefix * self.width)
        )
        return jnp.concatenate([patches.reshape(batch, rows, columns, -1), everywhere], axis=-1)

    def pool(self, maps: Float[Array, "b i j c"]) -> Float[Array, "b d"]:
        """Applies the last block and the rest. Gradients go to the patches' own channels alone."""
        maps = maps.astype(self.dtype)
        prefix = jax.lax.stop_gradient(maps[:, 0, 0, self.width :])
        patches = maps[..., : self.width].reshape(len(maps), -1, self.width)
        tokens = [prefix.reshape(len(maps), self.num_prefix, self.width), patches]
        return self._pooled(self.block[-1](jnp.concatenate(tokens, axis=1)))

    def depth(self, name: str) -> int:
        """Returns the depth of the parameters `name`: 0 before the blocks, k + 1 in "block_k"."""
        if name in ("norm", "project"):
            return self.num_blocks
        return int(name.removeprefix("block_")) + 1 if name.startswith("block_") else 0

    @property
    def num_prefix(self) -> int:
        """The number of tokens before the patches."""
        return self.class_token + self.registers

    @property
    def pooled(self) -> tuple[int, int | None]:
        """First and end of the tokens whose mean is the image's."""
        return {"class": (0, 1), "first_two": (0, 2)}.get(self.pooling, (self.num_prefix, None))

    def _before_last(self, patches: Float[Array, "b n width"]) -> Float[Array, "b t width"]:
        prefix = [self.cls[None]] if self.class_token else []
        prefix += [self.register_tokens] if self.registers else []
        tokens = patches
        if prefix:
            shape = (len(patches), self.num_prefix, self.width)
            repeated = jnp.broadcast_to(jnp.concatenate(prefix), shape).astype(self.dtype)
            tokens = jnp.concatenate([repeated, patches], axis=1)
        if self.pre_norm:
            tokens = self.norm_pre(tokens)
        for block in self.block[:-1]:
            tokens = block(tokens)
        return tokens

    def _pooled(self, tokens: Float[Array, "b n width"]) -> Float[Array, "b d"]:
        if not self.norm_after_pooling:
            tokens = self.norm(tokens)
        x = tokens[:, slice(*self.pooled)].astype(jnp.float32).mean(axis=1)
        if self.norm_after_pooling:
            x = self.norm(x)
        if self.projection:
            x = self.project(x)
        return x.astype(jnp.float32)


# Width, number of blocks and of heads.
VARIANTS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "H": (1280, 32, 16)}


def make(
    variant: str,
    patch: int = 16,
    image_size: int = 224,
    heads: int = 0,
    hidden: int = 0,
    class_token: bool = True,
    registers: int = 0,
    pooling: str = "class",
    norm_after_pooling: bool = False,
    layer_scale: float = 0.0,
    pre_norm: bool = False,
    projection: int = 0,
    activation: str = "gelu",
    epsilon: float = 1e-6,
    antialias: bool = False,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    remat: bool = False,
    dtype: str = "float32",
) -> ViT:
    """Returns the ViT called `variant`: "S", "B", "L", "H", or width and number of blocks: "192x6".

    Args:
      patch: pixels of a patch's side.
      image_size: pixels of an image's side for which position embeddings are learnt.
      heads: of attention; 0: the variant's, else one for 64 channels.
      hidden: width of the MLP; 0: four times that of the tokens.
      registers: how many register tokens (DeiT's distillation token is one).
      pooling: "class", the class token, "first_two", the mean of it and the first register
        (distilled DeiT), or "mean", of the patches.
      norm_after_pooling: the last norm acts on what was pooled (timm's fc_norm), not on tokens.
      layer_scale: a block's output is multiplied by it, learnt per channel; 0: not at all.
      pre_norm: CLIP's layer norm before the blocks, and a patch embedding without bias.
      projection: CLIP's linear map of the features to that many; 0: none.
      activation: of the MLP, "gelu", "gelu_tanh" (its approximation) or "quick_gelu" (CLIP's).
      antialias: of position embeddings where they are resampled.
      mean, std: of the image's pixels in [0, 1], one each or one per channel of three.
      remat: computes blocks again for the gradient: a fraction of the memory, a third more time.

    Raises ValueError for fields that make no sense, alone or together.
    """
    fields = dict(locals())  # the arguments: nearly all are fields of the module
    size = re.fullmatch(r"(\d+)x(\d+)", fields.pop("variant"))
    width, num_blocks, own = VARIANTS.get(variant, (0, 0, 0))
    if size:
        width, num_blocks = int(size[1]), int(size[2])
        own = 0 if width % 64 else width // 64
    fields |= {"heads": heads or own, "hidden": hidden or 4 * width}
    if not num_blocks or fields["heads"] < 1 or width % fields["heads"]:
        raise ValueError(
            f"no ViT variant {variant!r} of {heads or own} heads; there are {', '.join(VARIANTS)}, "
            "or WIDTHxBLOCKS, the width a multiple of the heads (of 64 where no heads are given)"
        )
    for field, value, choices in (
        ("pooling", pooling, ("class", "first_two", "mean")),
        ("activation", activation, tuple(ACTIVATIONS)),
    ):
        if value not in choices:
            raise ValueError(f"model {field} is {value!r}; use {' or '.join(map(repr, choices))}")
    if image_size % patch or image_size < patch:
        raise ValueError(f"image_size={image_size} is no multiple of patch={patch}")
    if (pooling != "mean" and not class_token) or (pooling == "first_two" and not registers):
        needs = "class_token=True" + (" and registers" if pooling == "first_two" else "")
        raise ValueError(f"pooling={pooling!r} needs {needs}; or use pooling='mean'")
    check_pixels(mean, std, dtype)
    fields |= {"mean": tuple(mean), "std": tuple(std)}
    return ViT(width, num_blocks, **fields)

"""Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929) as others publish them.

With the parts that DeiT, MAE, DINO, DINOv2 (arXiv:2304.07193; register tokens: arXiv:2309.16588),
DINOv3 (arXiv:2508.10104; rotary positions: arXiv:2104.09864), EVA-02 (arXiv:2303.11331), CLIP
(arXiv:2103.00020) and SigLIP (arXiv:2303.15343) need, so that their weights give their features.
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from cxr_jax.models._layers import check_pixels, normalised
from cxr_jax.models._positions import ROTARIES, resample, rotary
from cxr_jax.models._transformer import (
    ACTIVATIONS,
    AttentionPool,
    Block,
    layer_norm,
    small_normal,
)


class ViT(nn.Module):
    """Grey images [b h w 1], float32 in [0, 1] -> features [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter the patch embedding
    as `mean` has entries. Rows and columns beyond the last whole patch are not seen. `dtype` is the
    compute dtype; parameters and output are float32. d is `width`, or `projection` if that is set.

    Tokens are the class token, the registers, the patches, in this order; only patches have a
    position embedding (other people's of the class token is added to the token when it is loaded).
    It is learnt for images of `image_size` pixels and resampled for others. Rotary positions turn
    the patches' queries and keys in every block, beside it or, in DINOv3, in its place.

    The features are `pool(maps(images, train))`. Methods for objectives that mask patches: `embed`
    gives the patches of an image, `angles` their rotary positions, `encode` the tokens of any.
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
    rope: str = ""
    rope_grid: int = 14
    mlp_norm: bool = False
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
        if self.rope != "dinov3":
            self.positions = self.param("positions", small_normal, (grid * grid, self.width))
        if self.class_token:
            self.cls = self.param("cls", small_normal, (self.width,))
        if self.registers:
            shape = (self.registers, self.width)
            self.register_tokens = self.param("register_tokens", small_normal, shape)
        if self.pre_norm:
            self.norm_pre = layer_norm(self.epsilon, dtype)
        block = nn.remat(Block) if self.remat else Block
        shared = (self.heads, self.hidden, self.layer_scale, self.activation, self.epsilon, dtype)
        self.block = [block(*shared, self.mlp_norm) for _ in range(self.num_blocks)]
        self.norm = layer_norm(self.epsilon, dtype)
        if self.pooling == "attention":
            how = (self.heads, self.hidden, self.activation, self.epsilon, dtype)
            self.head = AttentionPool(*how)
        if self.projection:
            self.project = nn.Dense(
                self.projection, use_bias=False, dtype=dtype, kernel_init=small_normal
            )

    def __call__(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b d"]:
        patches = self.embed(images)
        angles = self.angles(*patches.shape[1:3])
        tokens = self._before_last(patches.reshape(len(patches), -1, self.width), angles)
        return self._pooled(self._last(tokens, angles))

    def embed(
        self,
        images: Float[Array, "b h w 1"],
        hidden: Bool[Array, "b i j"] | None = None,
        token: Float[Array, "width"] | None = None,
    ) -> Float[Array, "b i j width"]:
        """Returns the image's patches, with their position embedding, in the compute dtype.

        Where `hidden` is true, `token` takes the patch's place.
        """
        x = normalised(images, self.mean, self.std)
        patches = self.patch_embed(x.astype(self.dtype))
        if hidden is not None:
            patches = jnp.where(hidden[..., None], token.astype(self.dtype), patches)
        if self.rope == "dinov3":
            return patches
        grid = self.image_size // self.patch
        positions = self.positions.reshape(grid, grid, self.width)
        positions = resample(positions, *patches.shape[1:3], self.antialias)
        return patches + positions.astype(self.dtype)

    def angles(self, rows: int, columns: int) -> Float[Array, "n c"] | None:
        """Returns the rotary positions of rows x columns patches; None where the model has none."""
        if not self.rope:
            return None
        channels = self.width // self.heads
        return jnp.asarray(rotary(self.rope, rows, columns, channels, self.rope_grid))

    def encode(
        self, patches: Float[Array, "b n width"], angles: Float[Array, "*b n c"] | None = None
    ) -> Float[Array, "b t width"]:
        """Returns all tokens after the last block and norm, float32, the prefix first.

        `angles`: those patches' rows of `self.angles`, one for all images or each its own.
        """
        tokens = self._before_last(patches, angles)
        return self.norm(self._last(tokens, angles)).astype(jnp.float32)

    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j c"]:
        """Returns the patch tokens as they enter the last block, float32.

        The class token and the registers, as they are by then, follow each patch's own channels,
        the same at every place: `pool` needs them, and they have no place on the image.
        """
        patches = self.embed(images)
        batch, rows, columns, _ = patches.shape
        tokens = patches.reshape(batch, -1, self.width)
        tokens = self._before_last(tokens, self.angles(rows, columns)).astype(jnp.float32)
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        everywhere = jnp.broadcast_to(
            prefix.reshape(batch, 1, 1, -1), (batch, rows, columns, self.num_prefix * self.width)
        )
        return jnp.concatenate([patches.reshape(batch, rows, columns, -1), everywhere], axis=-1)

    def patch_maps(self, images: Float[Array, "b h w 1"]) -> Float[Array, "b i j width"]:
        """Returns the patches' tokens behind the last block, float32, at their places.

        After the norm, unless that is one of pooled features alone; never projected.
        """
        patches = self.embed(images)
        angles = self.angles(*patches.shape[1:3])
        tokens = self._before_last(patches.reshape(len(patches), -1, self.width), angles)
        tokens = self._last(tokens, angles)
        if not self.norm_after_pooling:
            tokens = self.norm(tokens)
        return tokens[:, self.num_prefix :].astype(jnp.float32).reshape(patches.shape)

    def pool(self, maps: Float[Array, "b i j c"]) -> Float[Array, "b d"]:
        """Applies the last block and the rest. Gradients go to the patches' own channels alone."""
        maps = maps.astype(self.dtype)
        prefix = jax.lax.stop_gradient(maps[:, 0, 0, self.width :])
        patches = maps[..., : self.width].reshape(len(maps), -1, self.width)
        tokens = [prefix.reshape(len(maps), self.num_prefix, self.width), patches]
        angles = self.angles(*maps.shape[1:3])
        return self._pooled(self._last(jnp.concatenate(tokens, axis=1), angles))

    def depth(self, name: str) -> int:
        """Returns the depth of the parameters `name`: 0 before the blocks, k + 1 in "block_k"."""
        if name in ("norm", "project", "head"):
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

    def _before_last(
        self, patches: Float[Array, "b n width"], angles: Float[Array, "*b n c"] | None
    ) -> Float[Array, "b t width"]:
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
            tokens = block(tokens, self._of_all(angles))
        return tokens

    def _last(
        self, tokens: Float[Array, "b t width"], angles: Float[Array, "*b n c"] | None
    ) -> Float[Array, "b t width"]:
        return self.block[-1](tokens, self._of_all(angles))

    def _of_all(self, angles: Float[Array, "*b n c"] | None) -> Float[Array, "*b t c"] | None:
        """Adds the prefix's angles, which are 0: it has no place on the image."""
        if angles is None:
            if self.rope:
                raise ValueError("a ViT with rotary positions needs `angles` beside its patches")
            return None
        return jnp.pad(angles, [(0, 0)] * (angles.ndim - 2) + [(self.num_prefix, 0), (0, 0)])

    def _pooled(self, tokens: Float[Array, "b n width"]) -> Float[Array, "b d"]:
        if not self.norm_after_pooling:
            tokens = self.norm(tokens)
        if self.pooling == "attention":
            x = self.head(tokens)
        else:
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
    rope: str = "",
    rope_grid: int = 14,
    mlp_norm: bool = False,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    remat: bool = False,
    dtype: str = "float32",
) -> ViT:
    """Returns the ViT called `variant`: "S", "B", "L", "H", or width and number of blocks: "192x6".

    Fields of config.model:
      patch: pixels of a patch's side.
      image_size: pixels of an image's side for which position embeddings are learnt.
      heads: of attention; 0: the variant's, else one for 64 channels.
      hidden: width of the MLP; 0: four times that of the tokens.
      class_token: whether there is one.
      registers: how many register tokens (DeiT's distillation token is one).
      pooling: "class", the class token, "first_two", the mean of it and the first register
        (distilled DeiT), "mean", of the patches, or "attention", SigLIP's.
      norm_after_pooling: the last norm acts on what was pooled (timm's fc_norm), not on tokens.
      layer_scale: a block's output is multiplied by it, learnt per channel; 0: not at all.
      pre_norm: CLIP's layer norm before the blocks, and a patch embedding without bias.
      projection: CLIP's linear map of the features to that many; 0: none.
      activation: of the MLP, "gelu", "gelu_tanh" (its approximation), "quick_gelu" (CLIP's) or
        "swiglu", which is gated: `hidden` is then what leaves the gate.
      epsilon: what layer norms add to the variance; 1e-5 in CLIP.
      antialias: of position embeddings where they are resampled.
      rope: rotary positions, "eva" beside the learnt ones, "dinov3" in their place; "": none.
      rope_grid: of "eva", how many patches of a side its angles were learnt for.
      mlp_norm: a layer norm before the MLP's second layer (EVA-02's larger ones).
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
        ("pooling", pooling, ("class", "first_two", "mean", "attention")),
        ("activation", activation, tuple(ACTIVATIONS)),
        ("rope", rope, ("", *ROTARIES)),
    ):
        if value not in choices:
            raise ValueError(f"model {field} is {value!r}; use {' or '.join(map(repr, choices))}")
    if image_size % patch or image_size < patch:
        raise ValueError(f"image_size={image_size} is no multiple of patch={patch}")
    of_class = pooling in ("class", "first_two")
    if (of_class and not class_token) or (pooling == "first_two" and not registers):
        needs = "class_token=True" + (" and registers" if pooling == "first_two" else "")
        raise ValueError(f"pooling={pooling!r} needs {needs}; or use pooling='mean'")
    if pooling == "attention" and (norm_after_pooling or activation == "swiglu"):
        raise ValueError("pooling='attention' goes with no norm_after_pooling and no 'swiglu'")
    if rope and width // fields["heads"] % 4:
        raise ValueError(f"rope={rope!r} needs heads of a multiple of 4 channels")
    check_pixels(mean, std, dtype)
    fields |= {"mean": tuple(mean), "std": tuple(std)}
    return ViT(width, num_blocks, **fields)

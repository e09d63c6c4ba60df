"""Swin transformers (Liu et al. 2021, arXiv:2103.14030): attention within windows.

Every second block shifts the windows by half.

Parameter names follow timm: `layers.1.blocks.2.attn.qkv.weight` is `stage1_block2/qkv/kernel`.
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cxr_jax.models import _layers
from cxr_jax.models._transformer import layer_norm, small_normal

_EPSILON = 1e-5


class Block(nn.Module):
    """Attention within windows, then an MLP, each behind a norm and a shortcut: [b h w c] alike."""

    heads: int
    window: int
    shifted: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        width = x.shape[-1]
        x = x + self._attend(layer_norm(_EPSILON, self.dtype, "norm1")(x))
        y = layer_norm(_EPSILON, self.dtype, "norm2")(x)
        y = nn.gelu(self._dense("fc1", 4 * width, y), approximate=False)
        return x + self._dense("fc2", width, y)

    def _dense(self, name: str, width: int, x: Array) -> Array:
        return nn.Dense(width, dtype=self.dtype, kernel_init=small_normal, name=name)(x)

    def _attend(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        size, (batch, height, wide, width) = self.window, x.shape
        # A side that one window spans is not shifted.
        shift = [size // 2 if self.shifted and side > size else 0 for side in (height, wide)]
        x = jnp.roll(x, (-shift[0], -shift[1]), axis=(1, 2))
        x = jnp.pad(x, ((0, 0), (0, -height % size), (0, -wide % size), (0, 0)))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        x = x.reshape(batch, rows, size, columns, size, width).swapaxes(2, 3)
        qkv = self._dense("qkv", 3 * width, x.reshape(-1, size * size, width))
        qkv = qkv.reshape(batch, rows * columns, size * size, 3, self.heads, -1)
        table = self.param("bias_table", small_normal, ((2 * size - 1) ** 2, self.heads))
        bias = table[_offsets(size)].transpose(2, 0, 1)
        if any(shift):
            apart = _apart(rows, columns, size, shift)
            bias = bias + jnp.where(apart, -100.0, 0.0)[:, None]
        x = _attend_windows(*(qkv[:, :, :, part] for part in range(3)), bias.astype(self.dtype))
        x = self._dense("proj", width, x.reshape(-1, size * size, width))
        x = x.reshape(batch, rows, columns, size, size, width).swapaxes(2, 3)
        x = x.reshape(batch, rows * size, columns * size, width)[:, :height, :wide]
        return jnp.roll(x, shift, axis=(1, 2))


def _attend_windows(
    query: Float[Array, "b w n heads d"],
    key: Float[Array, "b w n heads d"],
    value: Float[Array, "b w n heads d"],
    bias: Float[Array, "*w heads n n"],
) -> Float[Array, "b w n heads d"]:
    def attend(query: Array, key: Array, value: Array, bias: Array) -> Array:
        return jax.nn.dot_product_attention(query, key, value, bias=bias[None])

    of_each = 0 if bias.ndim == 4 else None  # or one for all windows
    return jax.vmap(attend, (1, 1, 1, of_each), 1)(query, key, value, bias)


def _offsets(size: int) -> Int[np.ndarray, "n n"]:
    """Returns, for two places of a window, the row of the bias table for how they lie apart."""
    places = np.stack(np.divmod(np.arange(size * size), size), axis=1)
    apart = places[:, None] - places[None] + size - 1
    return apart[..., 0] * (2 * size - 1) + apart[..., 1]


def _apart(rows: int, columns: int, size: int, shift: Sequence[int]) -> Bool[np.ndarray, "w n n"]:
    """Says, window by window, which places came together by the shift alone."""
    parts = []
    for count, moved in zip((rows, columns), shift):
        part = np.zeros(count * size, int)
        part[-size:] = 1
        part[len(part) - moved :] = 2
        parts.append(part)
    number = 3 * parts[0][:, None] + parts[1]
    number = number.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size * size)
    return number[:, :, None] != number[:, None]


class Swin(nn.Module):
    """Grey images [b h w 1], float32 in [0, 1] -> the mean of the last, normed map [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter the patch embedding
    as `mean` has entries. Maps are padded to whole windows. `dtype` is the compute dtype;
    parameters and output are float32. d is eight times `width`.
    """

    width: int
    blocks: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    remat: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    dtype: str = "float32"

    def __call__(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b d"]:
        return self.pool(self.maps(images, train))

    @nn.compact
    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j d"]:
        """Returns the last feature map after its norm, float32."""
        dtype = jnp.dtype(self.dtype)
        how = {"dtype": dtype, "kernel_init": small_normal}
        block = nn.remat(Block) if self.remat else Block
        x = _layers.normalised(images, self.mean, self.std).astype(dtype)
        x = nn.Conv(self.width, (4, 4), (4, 4), "VALID", **how, name="patch_embed")(x)
        x = layer_norm(_EPSILON, dtype, "patch_norm")(x)
        for stage, (count, heads) in enumerate(zip(self.blocks, self.heads)):
            if stage:  # squares of 2 x 2 become one
                b, height, wide, width = x.shape
                x = jnp.pad(x, ((0, 0), (0, height % 2), (0, wide % 2), (0, 0)))
                x = x.reshape(b, -(-height // 2), 2, -(-wide // 2), 2, width)
                x = x.transpose(0, 1, 3, 4, 2, 5).reshape(b, *x.shape[1:4:2], 4 * width)
                x = layer_norm(_EPSILON, dtype, f"stage{stage}_norm")(x)
                name = f"stage{stage}_reduction"
                x = nn.Dense(2 * width, use_bias=False, **how, name=name)(x)
            for number in range(count):
                fields = (heads, self.window, number % 2 == 1, dtype)
                x = block(*fields, name=f"stage{stage}_block{number}")(x)
        return layer_norm(_EPSILON, dtype, "norm")(x).astype(jnp.float32)

    def pool(self, maps: Float[Array, "b i j d"]) -> Float[Array, "b d"]:
        """Returns the map's mean."""
        return maps.mean(axis=(1, 2))

    def depth(self, name: str) -> int:
        """Returns the depth of parameters: 0 before the blocks, then one more in each."""
        if name == "norm":
            return sum(self.blocks)
        found = re.fullmatch(r"stage(\d+)_(?:block(\d+)|norm|reduction)", name)
        if not found:
            return 0
        return sum(self.blocks[: int(found[1])]) + int(found[2] or 0) + 1


# Width, blocks and heads by stage.
VARIANTS = {
    "T": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "S": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "B": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "L": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def make(
    variant: str = "T",
    window: int = 7,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    remat: bool = False,
    dtype: str = "float32",
) -> Swin:
    """Returns the Swin "T", "S", "B" or "L"; ValueError for fields that make no sense.

    `window`: patches of a window's side. `remat`: blocks are computed again for the gradient, for
    less memory.
    """
    fields = dict(locals())
    if (variant := fields.pop("variant")) not in VARIANTS:
        raise ValueError(f"no Swin variant {variant!r}; there are {', '.join(VARIANTS)}")
    if window < 2:
        raise ValueError(f"window={window}: a window has 2 patches a side or more")
    _layers.check_pixels(mean, std, dtype)
    return Swin(*VARIANTS[variant], **fields | {"mean": tuple(mean), "std": tuple(std)})

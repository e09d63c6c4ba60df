"""ConvNeXt encoders (Liu et al. 2022, arXiv:2201.03545), DINOv3's among them.

Parameter names follow timm: `stages.1.blocks.2.mlp.fc1.weight` is `stage1_block2/fc1/kernel`.
"""

import re
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cxr_jax.models import _layers
from cxr_jax.models._transformer import layer_norm, small_normal


class Block(nn.Module):
    """7x7 convolution by channel, norm, MLP, scale and shortcut: [b h w c] -> [b h w c]."""

    layer_scale: float
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        width = x.shape[-1]
        how = {"dtype": self.dtype, "kernel_init": small_normal}
        y = nn.Conv(width, (7, 7), feature_group_count=width, **how, name="conv_dw")(x)
        y = layer_norm(self.epsilon, self.dtype, "norm")(y)
        y = nn.gelu(nn.Dense(4 * width, **how, name="fc1")(y), approximate=False)
        y = nn.Dense(width, **how, name="fc2")(y)
        if self.layer_scale:
            start = nn.initializers.constant(self.layer_scale)
            y = y * self.param("gamma", start, (width,)).astype(self.dtype)
        return x + y


class ConvNeXt(nn.Module):
    """Grey images [b h w 1], float32 in [0, 1] -> the last map's mean, normed [b d], float32.

    The image is normalised inside, (image - mean) / std; as many channels enter the stem as `mean`
    has entries. `dtype` is the compute dtype; parameters and output are float32. d is widths[-1].
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    layer_scale: float = 1e-6
    epsilon: float = 1e-6
    remat: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    dtype: str = "float32"

    def setup(self) -> None:
        self.norm = layer_norm(self.epsilon, jnp.dtype("float32"))

    def __call__(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b d"]:
        return self.pool(self.maps(images, train))

    @nn.compact
    def maps(self, images: Float[Array, "b h w 1"], train: bool) -> Float[Array, "b i j d"]:
        """Returns the last feature map, float32."""
        dtype = jnp.dtype(self.dtype)
        conv = partial(nn.Conv, padding="VALID", dtype=dtype, kernel_init=small_normal)
        block = nn.remat(Block) if self.remat else Block
        x = _layers.normalised(images, self.mean, self.std).astype(dtype)
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths)):
            if stage == 0:
                x = conv(width, (4, 4), (4, 4), name="stem_conv")(x)
                x = layer_norm(self.epsilon, dtype, "stem_norm")(x)
            else:
                x = layer_norm(self.epsilon, dtype, f"stage{stage}_norm")(x)
                x = conv(width, (2, 2), (2, 2), name=f"stage{stage}_conv")(x)
            for number in range(count):
                name = f"stage{stage}_block{number}"
                x = block(self.layer_scale, self.epsilon, dtype, name=name)(x)
        return x.astype(jnp.float32)

    def pool(self, maps: Float[Array, "b i j d"]) -> Float[Array, "b d"]:
        """Returns the map's mean, normed."""
        return self.norm(maps.mean(axis=(1, 2)))

    def depth(self, name: str) -> int:
        """Returns the depth of parameters: 0 in the stem, then one more in each block."""
        if name == "norm":
            return sum(self.blocks)
        found = re.fullmatch(r"stage(\d+)_(?:block(\d+)|norm|conv)", name)
        if not found:
            return 0
        return sum(self.blocks[: int(found[1])]) + int(found[2] or 0) + 1


VARIANTS = {
    "T": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "S": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "B": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "L": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "XL": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


def make(
    variant: str = "T",
    layer_scale: float = 1e-6,
    epsilon: float = 1e-6,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    remat: bool = False,
    dtype: str = "float32",
) -> ConvNeXt:
    """Returns the ConvNeXt "T", "S", "B", "L" or "XL"; ValueError for fields that make no sense.

    `layer_scale`: a block's output is multiplied by it, learnt per channel; 0: not at all. `remat`:
    blocks are computed again for the gradient, for less memory.
    """
    fields = dict(locals())
    if (variant := fields.pop("variant")) not in VARIANTS:
        raise ValueError(f"no ConvNeXt variant {variant!r}; there are {', '.join(VARIANTS)}")
    _layers.check_pixels(mean, std, dtype)
    return ConvNeXt(*VARIANTS[variant], **fields | {"mean": tuple(mean), "std": tuple(std)})

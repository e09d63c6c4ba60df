"""MAE: an encoder sees a few of an image's patches, and a decoder draws the hidden ones.

He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv:2111.06377, and its official
code. config.model is a ViT; config.views holds one view, a, of whole patches.
Fields of config.objective:

mask_ratio      share of the patches that are hidden; .75
decoder_width   of the decoder's tokens; 512
decoder_blocks  its depth; 8
decoder_heads   of its attention; 16

As in the official code positions are sines and cosines that are not trained, matrices start
Glorot-uniform, and the target of a patch is its pixels less their mean, over their deviation.
Departures: the decoder's output is computed for hidden patches alone, because no other enters the
loss; pixels are in [0, 1], so that the 1e-6 added to their variance weighs 20 times more than on
ImageNet's scale and less of the noise in black corners is asked for.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cxr_jax import models
from cxr_jax.augment.views import augment_view, check_view
from cxr_jax.config import Section, check_fields, check_positive, check_values
from cxr_jax.models._positions import sincos
from cxr_jax.models._transformer import Block
from cxr_jax.models.vit import ViT
from cxr_jax.objectives import Objective, _networks, no_change

_FIELDS = ("name", "mask_ratio", "decoder_width", "decoder_blocks", "decoder_heads")


class Decoder(nn.Module):
    """Tokens of the visible patches -> `out` values of every hidden patch, float32.

    The tokens are those that belong to no patch, then those of the patches order[:, :v]; the
    values are those of the patches order[:, v:], from the layer called `last`.
    """

    grid: tuple[int, int]
    width: int
    num_blocks: int
    heads: int
    out: int
    epsilon: float
    remat: bool
    dtype: str
    last: str = "pixels"

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b t d"], order: Int[Array, "b n"], num_visible: int
    ) -> Float[Array, "b m out"]:
        dtype, (images, count) = jnp.dtype(self.dtype), order.shape
        hidden = count - num_visible
        x = nn.Dense(self.width, dtype=dtype, name="embed")(tokens)
        mask = self.param("mask_token", nn.initializers.normal(0.02), (self.width,)).astype(dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(mask, (images, hidden, self.width))], axis=1)
        places = sincos(*self.grid, self.width).reshape(-1, self.width)
        before = tokens.shape[1] - num_visible
        x = x.at[:, before:].add(jnp.asarray(places, dtype)[order])
        block = nn.remat(Block) if self.remat else Block
        for index in range(self.num_blocks):
            name = f"block_{index}"
            shared = (self.heads, 4 * self.width, 0.0, "gelu", self.epsilon, dtype)
            x = block(*shared, name=name)(x)
        x = nn.LayerNorm(self.epsilon, dtype=dtype, use_fast_variance=False, name="norm")(x)
        x = nn.Dense(self.out, dtype=dtype, name=self.last)(x[:, -hidden:])
        return x.astype(jnp.float32)


def draw_orders(key: PRNGKeyArray, images: int, patches: int) -> Int[Array, "b n"]:
    """Draws an order of the patches for every image; the first are visible, the rest hidden."""
    keys = jax.random.split(key, images)
    return jnp.argsort(jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys), axis=1)


def take(patches: Float[Array, "b n d"], chosen: Int[Array, "b m"]) -> Float[Array, "b m d"]:
    """Returns of each image the patches `chosen`, in that order."""
    return jnp.take_along_axis(patches, chosen[..., None], axis=1)


def targets(images: Float[Array, "b h w 1"], patch: int) -> Float[Array, "b n p"]:
    """Returns each patch's pixels, row by row, with mean 0 and (unbiased) variance 1; float32."""
    originals, height, width, _ = images.shape
    rows, columns = height // patch, width // patch
    x = images.reshape(originals, rows, patch, columns, patch).swapaxes(2, 3)
    x = x.reshape(originals, rows * columns, patch * patch)
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(x.var(axis=-1, ddof=1, keepdims=True) + 1e-6)


def num_visible(patches: int, mask_ratio: float) -> int:
    """Returns how many patches the encoder sees, rounded down as in the official code.

    >>> num_visible(patches=196, mask_ratio=0.75)
    49
    """
    return int(patches * (1 - mask_ratio) + 1e-9)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.model, .objective or .views that do not fit."""
    fields, encoder = config["objective"], models.build(config["model"])
    _check(fields, config["views"], encoder)
    view = config["views"]["a"]
    side = view["size"] // encoder.patch
    visible = num_visible(side * side, fields["mask_ratio"])
    decoder = Decoder(
        (side, side),
        *(fields["decoder_width"], fields["decoder_blocks"], fields["decoder_heads"]),
        out=encoder.patch**2,
        epsilon=encoder.epsilon,
        remat=encoder.remat,
        dtype=encoder.dtype,
    )

    def init(key, batch):
        key, encoder_key, decoder_key = jax.random.split(key, 3)
        originals = jnp.zeros((1, view["size"], view["size"], 1))
        first = encoder.init(encoder_key, originals, train=False)["params"]
        grid = encoder.image_size // encoder.patch
        first["positions"] = jnp.asarray(sincos(grid, grid, encoder.width).reshape(grid * grid, -1))
        tokens = jnp.zeros((1, encoder.num_prefix + visible, encoder.width))
        order = jnp.zeros((1, side * side), jnp.int32)
        last = decoder.init(decoder_key, tokens, order, visible)["params"]
        return _glorot(key, {"encoder": first, "decoder": last}), {"batch_stats": {"encoder": {}}}

    def embed(params, aux, batch, key):
        view_key, order_key = jax.random.split(key)
        images = augment_view(view_key, batch["image"], view)
        order = draw_orders(order_key, len(images), side * side)
        # Without a gradient, and exempt from weight decay, positions stay what they are.
        fixed = jax.lax.stop_gradient(params["encoder"]["positions"])
        variables = {"params": params["encoder"] | {"positions": fixed}}
        patches = encoder.apply(variables, images, method="embed")
        patches = take(patches.reshape(len(images), side * side, -1), order[:, :visible])
        tokens = encoder.apply(variables, patches, method="encode")
        drawn = decoder.apply({"params": params["decoder"]}, tokens, order, visible)
        hidden = take(targets(images, encoder.patch), order[:, visible:])
        pooled = tokens[:, 0]
        if encoder.pooling == "mean":
            pooled = tokens[:, encoder.num_prefix :].mean(axis=1)
        return {"error": jnp.mean((drawn - hidden) ** 2, axis=(1, 2)), "embedding": pooled}, aux

    def loss_from_outputs(outputs, aux):
        # The embeddings are of the visible patches alone.
        metrics = _networks.collapse_metrics(jax.lax.stop_gradient(outputs["embedding"]))
        return outputs["error"].mean(), (aux, metrics)

    features = partial(_networks.features, {"encoder": encoder})
    return Objective(
        *(init, embed, loss_from_outputs, no_change, features, _networks.COLLAPSE_METRICS),
        collapse_advice="",
    )


def _glorot(key: PRNGKeyArray, params: Any) -> Any:
    """Draws every kernel anew, Glorot-uniform, that of the patches as the matrix that it is."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    start = nn.initializers.glorot_uniform()

    def draw(key: PRNGKeyArray, path: Any, leaf: Array) -> Array:
        if path[-1].key != "kernel":
            return leaf
        return start(key, (leaf.size // leaf.shape[-1], leaf.shape[-1])).reshape(leaf.shape)

    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([draw(key, *leaf) for key, leaf in zip(keys, leaves)])


def _check(fields: Section, views: Section, encoder: nn.Module) -> None:
    if not isinstance(encoder, ViT):
        raise ValueError("MAE hides patches from a ViT; config.model.name must be 'vit'")
    if encoder.rope or encoder.pooling == "attention":
        raise ValueError("MAE takes a ViT without rotary positions and attention pooling")
    check_fields(fields, "config.objective", _FIELDS)
    check_fields(views, "config.views", ("a",))
    check_view(views["a"], "config.views.a")
    check_positive({"objective": fields}, [f"objective.{name}" for name in _FIELDS[2:]])
    size, patch = views["a"]["size"], encoder.patch
    if size % patch:
        raise ValueError(f"config.views.a.size={size} is no multiple of config.model.patch={patch}")
    count = (size // patch) ** 2
    width, heads = fields["decoder_width"], fields["decoder_heads"]
    some = 0 < num_visible(count, fields["mask_ratio"]) < count
    divides = width % 4 == width % heads == 0
    check_values(
        *(fields, "config.objective"),
        ("mask_ratio", some, f"such that of a view's {count} patches some are hidden, not all"),
        ("decoder_width", divides, f"a multiple of 4 (its positions) and of decoder_heads={heads}"),
    )

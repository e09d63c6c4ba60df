"""I-JEPA: from a part of an image a predictor says what a slow teacher sees in other blocks of it.

Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive
Architecture", arXiv:2301.08243, and its official code. config.model is a ViT; config.views holds
one view, a, of whole patches. Fields of config.objective:

num_targets       blocks of an image that are predicted, each by itself; 4
target_scale      a block's share of the patches; (.15, .2)
target_ratio      its height over its width; (.75, 1.5)
context_scale     share of the square that the context is cut from; (.85, 1)
predictor_width   a multiple of 4; 384
predictor_blocks  6 for a ViT-B, 12 for larger ones
predictor_heads   as the encoder's; 12
tau_base          the teacher's decay, which rises linearly to 1; .996

The target is the teacher's output, each patch's layer-normalised; the loss is smooth L1, as in the
code (L2 in the paper). The teacher is what is evaluated and exported. As in the code positions are
sines and cosines that are not trained. Block k's last matrices start divided by sqrt(2k), as its
models' do; its training then draws all of theirs anew.

Departures, so that all shapes are fixed: of every block as many patches are predicted as the
smallest has, and the context has as many as remain where targets do not overlap, chosen at random
from the square, then from around it. (The code cuts both from the end, to the batch's fewest.)
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cxr_jax import models
from cxr_jax.augment.views import augment_view, check_view
from cxr_jax.config import Section, check_fields, check_positive, check_values
from cxr_jax.models._positions import sincos
from cxr_jax.models.vit import ViT
from cxr_jax.objectives import Objective, _networks
from cxr_jax.objectives.dino import teacher_encoder
from cxr_jax.objectives.mae import Decoder, take

_SIZES = ("num_targets", "predictor_width", "predictor_blocks", "predictor_heads")
_RANGES = ("target_scale", "target_ratio", "context_scale")
_FIELDS = ("name", *_SIZES, *_RANGES, "tau_base")


def block_shapes(
    side: int, scale: Sequence[float | int], ratio: Sequence[float | int]
) -> Int[np.ndarray, "k 2"]:
    """Returns the (height, width) of every block of a grid with such a share of it and ratio.

    >>> block_shapes(14, (0.15, 0.2), (0.75, 1.5)).tolist()
    [[5, 6], [6, 5], [6, 6], [7, 5]]
    """
    sides = np.stack(np.mgrid[1 : side + 1, 1 : side + 1], axis=-1).reshape(-1, 2)
    shares, ratios = sides.prod(axis=1) / side**2, sides[:, 0] / sides[:, 1]
    near = 1e-9
    good = (scale[0] - near <= shares) & (shares <= scale[1] + near)
    return sides[good & (ratio[0] - near <= ratios) & (ratios <= ratio[1] + near)]


def draw_blocks(
    key: PRNGKeyArray,
    images: int,
    side: int,
    num_targets: int,
    targets: Int[np.ndarray, "k 2"],
    contexts: Int[np.ndarray, "l 2"],
) -> tuple[Int[Array, "b c"], Int[Array, "b t n"]]:
    """Draws for every image the patches of its context, and those of each of its target blocks.

    `targets`, `contexts`: the shapes to draw from. No patch of the context is one of a target.
    """
    length = int(targets.prod(axis=1).min())
    visible = side * side - num_targets * length
    row, column = np.divmod(np.arange(side * side), side)

    def block(key: PRNGKeyArray, shapes: Int[np.ndarray, "k 2"]) -> Array:
        shape_key, *corner_keys = jax.random.split(key, 3)
        shape = jnp.asarray(shapes)[jax.random.randint(shape_key, (), 0, len(shapes))]
        corner = [jax.random.randint(k, (), 0, side - n + 1) for k, n in zip(corner_keys, shape)]
        inside = [(at >= c) & (at < c + n) for at, c, n in zip((row, column), corner, shape)]
        return inside[0] & inside[1]

    def of_one(key: PRNGKeyArray) -> tuple[Array, Array]:
        context_key, order_key, *target_keys = jax.random.split(key, 2 + num_targets)
        hidden = jax.vmap(lambda k: block(k, targets))(jnp.stack(target_keys))
        chosen = jnp.argsort(~hidden, axis=1, stable=True)[:, :length]
        taken = jnp.zeros(side * side, bool).at[chosen.ravel()].set(True)
        # First the square's patches, then those around it, last the targets'.
        rank = 2 * taken + ~block(context_key, contexts)
        order = jnp.argsort(rank + jax.random.uniform(order_key, rank.shape))
        return order[:visible], chosen

    return jax.vmap(of_one)(jax.random.split(key, images))


def normalised_features(tokens: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Returns every patch's features with mean 0 and variance 1, float32."""
    tokens = tokens.astype(jnp.float32)
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.model, .objective or .views that do not fit."""
    fields, encoder = config["objective"], models.build(config["model"])
    targets, contexts = _check(fields, config["views"], encoder)
    view = config["views"]["a"]
    side, count = view["size"] // encoder.patch, fields["num_targets"]
    visible = side * side - count * int(targets.prod(axis=1).min())
    predictor = Decoder(
        (side, side),
        *(fields["predictor_width"], fields["predictor_blocks"], fields["predictor_heads"]),
        out=encoder.width,
        epsilon=encoder.epsilon,
        remat=encoder.remat,
        dtype=encoder.dtype,
        last="features",
    )

    def init(key, batch):
        encoder_key, predictor_key = jax.random.split(key)
        images = jnp.zeros((1, view["size"], view["size"], 1))
        first = encoder.init(encoder_key, images, train=False)["params"]
        grid = encoder.image_size // encoder.patch
        first["positions"] = jnp.asarray(sincos(grid, grid, encoder.width).reshape(grid * grid, -1))
        tokens = jnp.zeros((1, encoder.num_prefix + visible, encoder.width))
        order = jnp.zeros((1, visible + 1), jnp.int32)
        last = predictor.init(predictor_key, tokens, order, visible)["params"]
        params = {"encoder": _rescaled(first), "predictor": _rescaled(last)}
        # A copy: a state in which two leaves are one buffer cannot be donated.
        teacher = jax.tree.map(jnp.copy, {"encoder": params["encoder"]})
        return params, {
            "batch_stats": {"encoder": {}},
            "teacher": {"params": teacher, "batch_stats": {"encoder": {}}},
        }

    def encode(params, images, chosen=None):
        variables = {"params": params}
        patches = encoder.apply(variables, images, method="embed")
        patches = patches.reshape(len(images), side * side, -1)
        patches = patches if chosen is None else take(patches, chosen)
        return encoder.apply(variables, patches, method="encode")

    def embed(params, aux, batch, key):
        view_key, block_key = jax.random.split(key)
        images = augment_view(view_key, batch["image"], view)
        context, blocks = draw_blocks(block_key, len(images), side, count, targets, contexts)
        whole = encode(aux["teacher"]["params"]["encoder"], images)[:, encoder.num_prefix :]
        whole = jax.lax.stop_gradient(whole)
        wanted = take(normalised_features(whole), blocks.reshape(len(images), -1))
        # Without a gradient, and exempt from weight decay, positions stay what they are.
        fixed = jax.lax.stop_gradient(params["encoder"]["positions"])
        tokens = encode(params["encoder"] | {"positions": fixed}, images, context)

        def of_each(x):  # of an image's blocks, side by side
            return jnp.repeat(x, count, axis=0)

        order = jnp.concatenate([of_each(context), blocks.reshape(len(images) * count, -1)], axis=1)
        variables = {"params": params["predictor"]}
        drawn = predictor.apply(variables, of_each(tokens), order, visible)
        error = optax.losses.huber_loss(drawn.reshape(wanted.shape), wanted)
        return {"error": error.mean(axis=(1, 2)), "embedding": whole.mean(axis=1)}, aux

    def loss_from_outputs(outputs, aux):
        metrics = _networks.collapse_metrics(jax.lax.stop_gradient(outputs["embedding"]))
        return outputs["error"].mean(), (aux, metrics)

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        rate = (1 - fields["tau_base"]) * (1 - step / config["num_train_steps"])
        followed = _networks.ema_update(aux["teacher"]["params"], params, rate)
        return aux | {"teacher": aux["teacher"] | {"params": followed}}

    features = partial(_networks.features, {"encoder": encoder}, exported=teacher_encoder)
    return Objective(
        *(init, embed, loss_from_outputs, after_update, features, _networks.COLLAPSE_METRICS),
        exported=teacher_encoder,
        collapse_advice="lower config.optimizer.learning_rate, or raise config.objective.tau_base",
    )


def _rescaled(params: dict[str, Any]) -> dict[str, Any]:
    """Divides the last matrices of attention and MLP in block k, from 1, by sqrt(2k)."""
    scaled = dict(params)
    for name in params:
        if name.startswith("block_"):
            factor = (2 * (int(name.removeprefix("block_")) + 1)) ** -0.5
            last = {
                layer: params[name][layer] | {"kernel": factor * params[name][layer]["kernel"]}
                for layer in ("proj", "fc2")
            }
            scaled[name] = params[name] | last
    return scaled


def _check(
    fields: Section, views: Section, encoder: Any
) -> tuple[Int[np.ndarray, "k 2"], Int[np.ndarray, "l 2"]]:
    if not isinstance(encoder, ViT):
        raise ValueError("I-JEPA hides patches from a ViT; config.model.name must be 'vit'")
    if encoder.rope or encoder.pooling == "attention":
        raise ValueError("I-JEPA takes a ViT without rotary positions and attention pooling")
    where = "config.objective"
    check_fields(fields, where, _FIELDS)
    check_fields(views, "config.views", ("a",))
    check_view(views["a"], "config.views.a")
    check_positive({"objective": fields}, [f"objective.{name}" for name in _SIZES])
    size, patch = views["a"]["size"], encoder.patch
    if size % patch:
        raise ValueError(f"config.views.a.size={size} is no multiple of config.model.patch={patch}")
    width, heads, side = fields["predictor_width"], fields["predictor_heads"], size // patch
    divides = width % 4 == width % heads == 0
    two = [(name, len(fields[name]) == 2, "(min, max)") for name in _RANGES]
    check_values(
        *(fields, where, *two),
        ("predictor_width", divides, f"a multiple of 4 and of predictor_heads={heads}"),
        ("tau_base", 0 <= fields["tau_base"] <= 1, "in [0, 1]"),
    )
    targets = block_shapes(side, fields["target_scale"], fields["target_ratio"])
    contexts = block_shapes(side, fields["context_scale"], (1, 1))
    of = f"of a view's {side} x {side} patches"
    check_values(
        *(fields, where),
        ("target_scale", len(targets) > 0, f"such that a block {of} has it, and target_ratio"),
        ("context_scale", len(contexts) > 0, f"such that a square {of} has it"),
    )
    length = int(targets.prod(axis=1).min())
    left = fields["num_targets"] * length < side * side
    check_values(
        *(fields, where),
        ("num_targets", left, f"so few that {of} blocks of {length} leave a context"),
    )
    return targets, contexts

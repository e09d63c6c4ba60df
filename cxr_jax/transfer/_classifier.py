"""An encoder with a linear head, trained as one: loss, step and scores as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from cxr_jax.augment.views import augment_view
from cxr_jax.fields import Section


class Weights(NamedTuple):
    """What scores images: params {"encoder", "head"} and the encoder's batch_stats."""

    params: Any
    batch_stats: Any


class State(NamedTuple):
    """params: {"encoder": …, "head": {"kernel" [d k], "bias" [k]}}, float32.

    rate multiplies what the optimizer gives (made for a rate of 1 at its peak): as a number of the
    state it lets one compiled step serve every learning rate. rate and key never change.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    rate: Float[Array, ""]
    key: PRNGKeyArray


def create(
    variables: Any,
    optimizer: optax.GradientTransformation,
    num_features: int,
    train_targets: Shaped[np.ndarray, "n k"],
    rate: float,
    seed: int,
    exclusive: bool = False,
) -> State:
    """The encoder's `variables` under a head that says of every image how common the labels are.

    Its logits are log-odds or, of exclusive classes, log-probabilities.

    The head's weights start at zero: nothing of it is random, and no random direction is sent
    through the encoder in the first step.
    """
    prevalence = np.nanmean(np.asarray(train_targets, np.float64), axis=0)
    absent = 0 if exclusive else np.log1p(-prevalence)
    head = {
        "kernel": jnp.zeros((num_features, len(prevalence)), jnp.float32),
        "bias": jnp.asarray(np.log(prevalence) - absent, jnp.float32),
    }
    # Copies: steps give their state away, and the encoder is wanted for the next learning rate.
    encoder, batch_stats = jax.tree.map(jnp.array, (variables["params"], variables["batch_stats"]))
    params = {"encoder": encoder, "head": head}
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        rate=jnp.float32(rate),
        key=jax.random.key(seed),
    )


def masked_loss(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, ""]:
    """Mean sigmoid cross-entropy of the known targets (0 or 1; NaN: no loss); 0 if none is known.

    The mean is over images and labels together: an image counts for each label that it is known for.
    """
    known = ~jnp.isnan(targets)
    # Filled in before the loss: a NaN that is masked only behind it still makes the gradient NaN.
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, targets, 0))
    return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)


def masked_softmax_loss(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, ""]:
    """Mean softmax cross-entropy of the images that have a class; 0 if none has.

    A row of targets has one 1 and else 0, or is all NaN: no class, no loss.
    """
    known = ~jnp.isnan(targets).any(axis=1)
    losses = optax.softmax_cross_entropy(logits, jnp.where(known[:, None], targets, 0))
    return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    view: Section,
    loss: Callable[[Float[Array, "b k"], Float[Array, "b k"]], Float[Array, ""]] = masked_loss,
) -> Callable[[State, dict[str, Array]], tuple[State, Float[Array, ""]]]:
    """A pure `(state, {"image", "target"}) -> (state, loss)`; jit it with the state donated.

    Batch norm is in training mode: it uses the batch's statistics and updates the running ones.
    """

    def loss_of(params, batch_stats, batch, key):
        images = augment_view(key, batch["image"], view)
        logits, batch_stats = train_logits(model, params, batch_stats, images)
        return loss(logits, batch["target"]), batch_stats

    def step(state, batch):
        key = jax.random.fold_in(state.key, state.step)
        (value, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.batch_stats, batch, key
        )
        return update(state, optimizer, gradients, batch_stats), value

    return step


def train_logits(
    model: nn.Module, params: Any, batch_stats: Any, images: Float[Array, "b h w 1"]
) -> tuple[Float[Array, "b k"], Any]:
    """(logits, new batch_stats) in training mode."""
    encoder = {"params": params["encoder"], "batch_stats": batch_stats}
    features, changed = model.apply(encoder, images, train=True, mutable=["batch_stats"])
    return _head(params["head"], features), changed["batch_stats"]


def update(
    state: State, optimizer: optax.GradientTransformation, gradients: Any, batch_stats: Any
) -> State:
    """The state after the optimizer's step, at the state's rate."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: state.rate * update, updates)
    changed = {
        "step": state.step + 1,
        "params": optax.apply_updates(state.params, updates),
        "batch_stats": batch_stats,
        "opt_state": opt_state,
    }
    return state._replace(**changed)


def make_scores(
    model: nn.Module,
) -> Callable[[Any, Any, Shaped[Array, "b h w 1"]], Float[Array, "b k"]]:
    """(params, batch_stats, images uint8) -> logits, in evaluation mode: image by image."""

    def scores(params, batch_stats, images):
        encoder = {"params": params["encoder"], "batch_stats": batch_stats}
        return _head(params["head"], model.apply(encoder, images / jnp.float32(255), train=False))

    return scores


def _head(head: Any, features: Float[Array, "b d"]) -> Float[Array, "b k"]:
    # Full precision: the default on accelerators rounds to about three digits and makes ties.
    return jnp.matmul(features, head["kernel"], precision="highest") + head["bias"]


def with_layer_decay(
    optimizer: optax.GradientTransformation, model: nn.Module, layer_decay: float
) -> optax.GradientTransformation:
    """`optimizer` with its rate multiplied by layer_decay for every depth below the head.

    The model's `depth` says how deep its parameters lie; the head is one deeper than the deepest.
    """
    if layer_decay == 1:
        return optimizer

    def scale(updates, _):
        depths = {name: model.depth(name) for name in updates["encoder"]}
        head = 1 + max(depths.values())
        encoder = {
            name: jax.tree.map(lambda u, n=name: layer_decay ** (head - depths[n]) * u, below)
            for name, below in updates["encoder"].items()
        }
        return {"encoder": encoder, "head": updates["head"]}

    return optax.chain(optimizer, optax.stateless(scale))

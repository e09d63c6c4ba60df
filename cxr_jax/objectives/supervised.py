"""Supervised: an encoder under a linear head, trained on labels. Fine-tuning's objective.

The protocol "finetune" builds it by `objective`; a pretraining, which reads no labels, cannot name
it. params = {"encoder", "head": {"kernel" [d k], "bias" [k]}}, float32; a batch holds "image" and
"target".
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section
from cxr_jax.objectives import IMAGE, Field, Objective, _networks, no_change


def make(config: Section) -> NoReturn:
    """Raises ValueError: a pretraining has no labels to learn from."""
    raise ValueError(
        f"config.objective.name={config['objective']['name']!r} learns from labels, which a "
        "pretraining does not read. Fine-tune an encoder instead: --config=configs/transfer.py "
        "--config.protocol=finetune"
    )


def masked_loss(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, ""]:
    """Returns the mean sigmoid cross-entropy of the known targets (0 or 1; NaN: no loss).

    The mean is over images and labels together; 0 where no target is known.

    >>> round(masked_loss(jnp.zeros((2, 1)), jnp.array([[1.0], [jnp.nan]])).item(), 3)
    0.693
    """
    known = ~jnp.isnan(targets)
    # Filled in before the loss: a NaN masked only after it still makes the gradient NaN.
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.where(known, targets, 0))
    return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)


def masked_softmax_loss(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"]
) -> Float[Array, ""]:
    """Returns the mean softmax cross-entropy of the images that have a class; 0 if none has.

    A row of targets has one 1 and else 0, or is all NaN: no class, no loss.
    """
    known = ~jnp.isnan(targets).any(axis=1)
    losses = optax.softmax_cross_entropy(logits, jnp.where(known[:, None], targets, 0))
    return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(jnp.sum(known), 1)


def objective(
    model: nn.Module,
    variables: Any,
    num_features: int,
    train_targets: Shaped[np.ndarray, "n k"],
    view: Section,
    exclusive: bool = False,
) -> Objective:
    """Returns the objective of training `variables`, the encoder's, on images seen in `view`.

    `exclusive`: the labels are classes of which an image has one, told apart by a softmax. `init`
    draws nothing: the head starts as `first_head`. Batch norm is in training mode.
    """
    loss = masked_softmax_loss if exclusive else masked_loss
    chain = {"encoder": model}

    def init(key, batch):
        # Copies: steps give their state away, and the next learning rate starts here too.
        encoder, stats = jax.tree.map(jnp.array, (variables["params"], variables["batch_stats"]))
        params = {"encoder": encoder, "head": first_head(num_features, train_targets, exclusive)}
        return params, {"batch_stats": {"encoder": stats}}

    def embed(params, aux, batch, key):
        images = augment_view(key, batch["image"], view)
        logits, stats = train_logits(model, params, aux["batch_stats"], images)
        return {"logits": logits, "target": batch["target"]}, aux | {"batch_stats": stats}

    def loss_from_outputs(outputs, aux):
        return loss(outputs["logits"], outputs["target"]), (aux, {})

    return Objective(
        *(init, embed, loss_from_outputs, no_change, partial(_networks.features, chain)),
        batch={"image": IMAGE, "target": Field((train_targets.shape[1],), np.float32)},
        collapse_advice="",
    )


def first_head(
    num_features: int, train_targets: Shaped[np.ndarray, "n k"], exclusive: bool
) -> dict[str, Float[Array, "..."]]:
    """Returns a head that gives every image the labels' prevalence.

    Its logits are log-odds or, of exclusive classes, log-probabilities. Its weights start at zero:
    no random direction is sent through the encoder in the first step.
    """
    prevalence = np.nanmean(np.asarray(train_targets, np.float64), axis=0)
    absent = 0 if exclusive else np.log1p(-prevalence)
    return {
        "kernel": jnp.zeros((num_features, len(prevalence)), jnp.float32),
        "bias": jnp.asarray(np.log(prevalence) - absent, jnp.float32),
    }


def train_logits(
    model: nn.Module, params: Any, batch_stats: Any, images: Float[Array, "b h w 1"]
) -> tuple[Float[Array, "b k"], Any]:
    """Returns (logits, new batch_stats) in training mode."""
    outputs, batch_stats = _networks.apply({"encoder": model}, params, batch_stats, images)
    return _apply_head(params["head"], outputs["encoder"]), batch_stats


def scored_network(params: Any, aux: Any) -> dict[str, Any]:
    """Returns {"params", "batch_stats"} of what scores: the mean teacher, if there is one."""
    return aux.get("teacher") or {"params": params, "batch_stats": aux["batch_stats"]}


def make_scores(model: nn.Module) -> Callable[[Any, Shaped[Array, "b h w 1"]], Float[Array, "b k"]]:
    """Returns (network, images uint8) -> logits, in evaluation mode: image by image."""

    def scores(network, images):
        encoder = {name: part["encoder"] for name, part in network.items()}
        features = model.apply(encoder, images / jnp.float32(255), train=False)
        return _apply_head(network["params"]["head"], features)

    return scores


def _apply_head(head: Any, features: Float[Array, "b d"]) -> Float[Array, "b k"]:
    # Full precision: the default on accelerators rounds to about three digits and makes ties.
    return jnp.matmul(features, head["kernel"], precision="highest") + head["bias"]

"""Supervised: an encoder under a linear head, trained on labels, with or without a mean teacher.

The protocol "finetune" builds it by `objective`; a pretraining, which reads no labels, cannot name
it. params = {"encoder", "head": {"kernel" [d k], "bias" [k]}}, float32; a batch holds "image" and
"target".

Mean teacher: images without labels teach the network to agree with a slow average of itself.
Tarvainen & Valpola, "Mean teachers are better role models", arXiv:1703.01780, and their official
code; the second stage of S2MTS2 (Liu et al., arXiv:2103.03629). Student and teacher see every image
of a step, labelled or not, each in a view of its own; the student learns from the labels and from
the teacher's answers; the teacher is the moving average of the student, and is what is scored.
Fields of config.finetune.mean_teacher:

weight      of the teacher's answers beside the labels, once it has risen; 0: no teacher
decay       of the average, per step
ramp_up     share of the steps in which the weight rises
unlabelled_batch_size
            images without labels in a step, of those that the label fraction leaves out; fewer, or
            none, where there are no more
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import IMAGE, Field, Objective, _networks, no_change

_TEACHER = ("weight", "decay", "ramp_up", "unlabelled_batch_size")


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


def check_teacher(fields: Section, where: str) -> None:
    """Raises ValueError for the first field of the section `where` that makes no sense."""
    check_fields(fields, where, _TEACHER)
    check_values(
        *(fields, where),
        ("weight", fields["weight"] >= 0, "0 (off) or more"),
        ("decay", 0 <= fields["decay"] < 1, "0 or more and below 1"),
        ("ramp_up", 0 <= fields["ramp_up"] <= 1, "a share of the steps, from 0 to 1"),
        ("unlabelled_batch_size", fields["unlabelled_batch_size"] > 0, "1 or more"),
    )


def ramp_up(step: Int[Array, ""] | int, length: float | int) -> Float[Array, ""]:
    """Returns exp(-5 (1 - step / length)^2).

    >>> round(ramp_up(0, 100).item(), 4), ramp_up(100, 100).item()
    (0.0067, 1.0)
    """
    progress = jnp.minimum(step / length, 1.0) if length else 1.0
    return jnp.exp(-5.0 * (1.0 - progress) ** 2)


def decay(step: Int[Array, ""] | int, most: float) -> Float[Array, ""]:
    """Returns the average's decay after step number `step`, from 1: 1 - 1 / (step + 1), at `most`.

    At first the teacher is thus the plain mean of the start and all students.
    """
    return jnp.minimum(1 - 1 / (step + 1), most)


def consistency(
    student: Float[Array, "b k"], teacher: Float[Array, "b k"], exclusive: bool
) -> Float[Array, ""]:
    """Returns the mean square of the probabilities' difference, over images and labels.

    Both are logits; of exclusive classes the probabilities are the softmax's. No gradient flows
    into `teacher`.
    """
    chances = jax.nn.softmax if exclusive else jax.nn.sigmoid
    return jnp.mean((chances(student) - jax.lax.stop_gradient(chances(teacher))) ** 2)


def with_teacher(
    plain: Objective,
    model: nn.Module,
    view: Section,
    exclusive: bool,
    fields: Section,
    num_steps: int,
) -> Objective:
    """Returns `plain`, of `objective`, with a mean teacher.

    A batch may hold "unlabelled" images too. Both networks are in training mode, with batch
    statistics of their own over all images of the step. aux has "teacher", which starts as the
    student does, and "step", the steps made.
    """

    def init(key, batch):
        params, aux = plain.init(key, batch)
        # A copy: a state in which two leaves are one buffer cannot be donated.
        teacher = jax.tree.map(jnp.copy, {"params": params, **aux})
        return params, aux | {"teacher": teacher, "step": jnp.zeros((), jnp.int32)}

    def embed(params, aux, batch, key):
        images, teacher = batch["image"], aux["teacher"]
        if "unlabelled" in batch:
            images = jnp.concatenate([images, batch["unlabelled"]])
        own, other = (augment_view(k, images, view) for k in (key, jax.random.fold_in(key, 1)))
        logits, stats = train_logits(model, params, aux["batch_stats"], own)
        answers, teacher_stats = train_logits(
            model, teacher["params"], teacher["batch_stats"], other
        )
        changed = {"batch_stats": stats, "teacher": teacher | {"batch_stats": teacher_stats}}
        return {"logits": logits, "answers": answers, "target": batch["target"]}, aux | changed

    def loss_from_outputs(outputs, aux):
        logits, target = outputs["logits"], outputs["target"]
        weight = fields["weight"] * ramp_up(aux["step"], fields["ramp_up"] * num_steps)
        labelled = {"logits": logits[: len(target)], "target": target}
        value, changed = plain.loss_from_outputs(labelled, aux)
        return value + weight * consistency(logits, outputs["answers"], exclusive), changed

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        kept = decay(step + 1, fields["decay"])
        averaged = jax.tree.map(
            lambda old, new: kept * old + (1 - kept) * new, aux["teacher"]["params"], params
        )
        return aux | {"teacher": aux["teacher"] | {"params": averaged}, "step": step + 1}

    def exported(params: Any, aux: Any) -> dict[str, Any]:
        return {name: part["encoder"] for name, part in aux["teacher"].items()}

    return plain._replace(
        init=init,
        embed=embed,
        loss_from_outputs=loss_from_outputs,
        after_update=after_update,
        features=partial(_networks.features, {"encoder": model}, exported=exported),
        exported=exported,
    )

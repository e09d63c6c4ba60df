"""Mean teacher: images without labels teach the network to agree with a slow average of itself.

Tarvainen & Valpola, "Mean teachers are better role models", arXiv:1703.01780, and their official
code; the second stage of S2MTS2 (Liu et al., arXiv:2103.03629). Student and teacher see every image
of a step, labelled or not, each in a view of its own; the student learns from the labels and from
the teacher's answers; the teacher is the moving average of the student, and is what is scored. Like
supervised.py it serves fine-tuning. Fields of config.finetune.mean_teacher:

weight      of the teacher's answers beside the labels, once it has risen; 0: no teacher
decay       of the average, per step
ramp_up     share of the steps in which the weight rises
unlabelled_batch_size
            images without labels in a step, of those that the label fraction leaves out; fewer, or
            none, where there are no more
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields
from cxr_jax.objectives import Objective, _networks, supervised
from cxr_jax.objectives.supervised import make as make  # it says why no pretraining can have it

_FIELDS = ("weight", "decay", "ramp_up", "unlabelled_batch_size")


def check(fields: Section, where: str) -> None:
    """Raises ValueError for the first field of the section `where` that makes no sense."""
    check_fields(fields, where, _FIELDS)
    for name, good, wanted in (
        ("weight", fields["weight"] >= 0, "0 (off) or more"),
        ("decay", 0 <= fields["decay"] < 1, "0 or more and below 1"),
        ("ramp_up", 0 <= fields["ramp_up"] <= 1, "a share of the steps, from 0 to 1"),
        ("unlabelled_batch_size", fields["unlabelled_batch_size"] > 0, "1 or more"),
    ):
        if not good:
            raise ValueError(f"{where}.{name} is {fields[name]!r}; it must be {wanted}")


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


def objective(
    plain: Objective,
    model: nn.Module,
    view: Section,
    exclusive: bool,
    fields: Section,
    num_steps: int,
) -> Objective:
    """Returns `plain`, of supervised.objective, with a mean teacher.

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
        logits, stats = supervised.train_logits(model, params, aux["batch_stats"], own)
        answers, teacher_stats = supervised.train_logits(
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

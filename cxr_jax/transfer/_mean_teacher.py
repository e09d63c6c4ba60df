"""Mean teacher: images without labels teach the network to agree with a slow average of itself.

Tarvainen & Valpola, "Mean teachers are better role models", arXiv:1703.01780, and their official
code; the second stage of S2MTS2 (Liu et al., arXiv:2103.03629). Student and teacher see every image
of a step, labelled or not, each in a view of its own; the student learns from the labels that there
are and from the teacher's answers, the teacher is the moving average of the student, and is what is
scored. Fields of config.finetune.mean_teacher:

weight      of the teacher's answers beside the labels, once it has risen; 0: no teacher
decay       of the average, per step
ramp_up     share of the steps in which the weight rises
unlabelled_batch_size
            images without labels in a step: training images that the label fraction leaves out; fewer
            where there are fewer. Where there are none, the labelled ones alone
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cxr_jax.augment.views import augment_view
from cxr_jax.fields import Section, check_fields
from cxr_jax.transfer import _classifier

_FIELDS = ("weight", "decay", "ramp_up", "unlabelled_batch_size")


class State(NamedTuple):
    student: _classifier.State
    teacher: _classifier.Weights


def create(student: _classifier.State) -> State:
    """The teacher starts as the student does."""
    # A copy: a state in which two leaves are one buffer cannot be donated.
    copied = jax.tree.map(jnp.copy, (student.params, student.batch_stats))
    return State(student, _classifier.Weights(*copied))


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
    """exp(-5 (1 - step / length)^2): .0067 at the start, 1 from step `length` on."""
    progress = jnp.minimum(step / length, 1.0) if length else 1.0
    return jnp.exp(-5.0 * (1.0 - progress) ** 2)


def decay(step: Int[Array, ""] | int, most: float) -> Float[Array, ""]:
    """Of the average after step number `step`, from 1: 1 - 1 / (step + 1), at most `most`.

    At first the teacher is thus the plain mean of the start and all students.
    """
    return jnp.minimum(1 - 1 / (step + 1), most)


def consistency(
    student: Float[Array, "b k"], teacher: Float[Array, "b k"], exclusive: bool
) -> Float[Array, ""]:
    """Mean square of the difference of the probabilities, over images and labels.

    Of logits; of exclusive classes the softmax's probabilities. No gradient flows into `teacher`.
    """
    chances = jax.nn.softmax if exclusive else jax.nn.sigmoid
    return jnp.mean((chances(student) - jax.lax.stop_gradient(chances(teacher))) ** 2)


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    view: Section,
    loss: Callable[[Float[Array, "b k"], Float[Array, "b k"]], Float[Array, ""]],
    exclusive: bool,
    fields: Section,
    num_steps: int,
) -> Callable[[State, dict[str, Array]], tuple[State, Float[Array, ""]]]:
    """A pure `(state, {"image", "target", "unlabelled"}) -> (state, loss)`; jit it, state donated.

    "unlabelled" holds images and may be absent. The loss is that of the labels plus the weighted
    disagreement. Both networks are in training mode, with batch statistics of their own over all
    images of the step.
    """

    def loss_of(params, state, batch, key):
        images = batch["image"]
        if "unlabelled" in batch:
            images = jnp.concatenate([images, batch["unlabelled"]])
        own, other = (augment_view(k, images, view) for k in (key, jax.random.fold_in(key, 1)))
        logits, stats = _classifier.train_logits(model, params, state.student.batch_stats, own)
        answers, teacher_stats = _classifier.train_logits(model, *state.teacher, other)
        weight = fields["weight"] * ramp_up(state.student.step, fields["ramp_up"] * num_steps)
        value = loss(logits[: len(batch["target"])], batch["target"])
        value += weight * consistency(logits, answers, exclusive)
        return value, (stats, teacher_stats)

    def step(state, batch):
        key = jax.random.fold_in(state.student.key, state.student.step)
        (value, (stats, teacher_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.student.params, state, batch, key
        )
        student = _classifier.update(state.student, optimizer, gradients, stats)
        kept = decay(student.step, fields["decay"])
        averaged = jax.tree.map(
            lambda old, new: kept * old + (1 - kept) * new, state.teacher.params, student.params
        )
        return State(student, _classifier.Weights(averaged, teacher_stats)), value

    return step

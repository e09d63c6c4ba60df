"""DINO: a student's crops are assigned to prototypes as a slow teacher assigns the large crops.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294, and
its official code. config.views holds two global views, a and b, and `local`, of which an image gets
num_local. Fields of config.objective:

hidden               the head's hidden widths; (2048, 2048)
bottleneck           what they lead to, before the prototypes; 256
prototypes           to which images are assigned; 65536
head_bn              batch norm in the head; False (the official use_bn_in_head)
num_local            small crops of an image; 8
student_temperature  of its softmax over prototypes; .1
teacher_temperature  of the teacher's, from the first to the second, linearly; (.04, .07)
teacher_warmup       share of the training in which it changes; 30 of 100 epochs: .3
centre_momentum      decay of the mean that is taken off the teacher's outputs; .9
tau_base             the teacher's decay, which goes to 1 as BYOL's does; .996

The teacher is what is evaluated and exported, as in the paper. As in the official code, the encoder
runs once per size of crop and the head once over all of a network's crops, which its batch norm
sees together. Otherwise than there, position embeddings are resampled to a small crop's own grid;
the official code asks for a grid larger by .1, which moves them by up to .2 of a place.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from cxr_jax.augment.views import augment_view, check_view
from cxr_jax.config import Section, check_fields, check_positive
from cxr_jax.models._layers import BatchNorm
from cxr_jax.objectives import Objective, _networks, byol, l2_normalise

_FIELDS = (
    *("name", "hidden", "bottleneck", "prototypes", "head_bn", "num_local", "student_temperature"),
    *("teacher_temperature", "teacher_warmup", "centre_momentum", "tau_base"),
)
_METRICS = (*_networks.COLLAPSE_METRICS, "target_entropy", "prototypes_used", "teacher_temperature")


class Bottleneck(nn.Module):
    """Linear(-BN)-GELU for each width in `hidden`, then Linear to `out` and length one, float32."""

    hidden: tuple[int, ...]
    out: int
    dtype: str
    bn: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n c"], train: bool) -> Float[Array, "n d"]:
        init = nn.initializers.truncated_normal(0.02)
        for index, width in enumerate(self.hidden):
            x = nn.Dense(width, dtype=self.dtype, kernel_init=init, name=f"dense{index}")(x)
            if self.bn:
                x = BatchNorm(not train, self.dtype, name=f"bn{index}")(x)
            x = nn.gelu(x, approximate=False)
        name = f"dense{len(self.hidden)}"
        return l2_normalise(nn.Dense(self.out, dtype=self.dtype, kernel_init=init, name=name)(x))


class Prototypes(nn.Module):
    """Cosines to `count` prototypes: the official weight-normalised layer with its norm fixed.

    A prototype's own length, which tells how fast it turns, starts near .58, as there.
    """

    count: int

    @nn.compact
    def __call__(self, x: Float[Array, "n d"], train: bool) -> Float[Array, "n k"]:
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # nn.Linear's
        kernel = self.param("kernel", init, (x.shape[1], self.count))
        return x @ l2_normalise(kernel.T).T.astype(x.dtype)


def dino_loss(
    student: Float[Array, "n s k"],
    teacher: Float[Array, "n t k"],
    centre: Float[Array, "k"],
    student_temperature: float,
    teacher_temperature: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Returns the cross entropy of the student's assignment under the teacher's (eqs. 1 to 3).

    The first t views of the student are the teacher's; a view is not compared with itself. Mean
    over images and pairs of views, float32. No gradient flows into the teacher.
    A uniform student: log k.
    """
    target = assignments(jax.lax.stop_gradient(teacher), centre, teacher_temperature)
    return view_loss(student, target, student_temperature)


def view_loss(
    student: Float[Array, "n s k"], target: Float[Array, "n t k"], student_temperature: float
) -> Float[Array, ""]:
    """Returns that loss for targets that are probabilities already."""
    logs = jax.nn.log_softmax(student.astype(jnp.float32) / student_temperature)
    entropy = -jnp.einsum("ntk,nsk->nts", target, logs)
    other = 1 - jnp.eye(target.shape[1], student.shape[1])
    return jnp.sum(entropy * other) / (jnp.sum(other) * student.shape[0])


def assignments(
    teacher: Float[Array, "n t k"],
    centre: Float[Array, "k"],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "n t k"]:
    """Returns the teacher's probabilities, centred and sharpened."""
    return jax.nn.softmax((teacher.astype(jnp.float32) - centre) / temperature)


def teacher_temperature(
    step: Int[Array, ""] | int, total: int, ends: tuple[float, float], warmup: float
) -> Float[Array, ""]:
    """Returns a temperature that goes from `ends[0]` to `ends[1]` in the share `warmup` of steps.

    >>> round(teacher_temperature(15, 100, (0.04, 0.07), warmup=0.3).item(), 3)
    0.055
    """
    progress = jnp.minimum(step / max(warmup * total, 1), 1.0)
    return ends[0] + (ends[1] - ends[0]) * progress


def teacher_encoder(params: Any, aux: Any) -> dict[str, Any]:
    """Returns the teacher's encoder, which is what is exported."""
    return {name: aux["teacher"][name]["encoder"] for name in ("params", "batch_stats")}


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields, views = config["objective"], config["views"]
    check(fields, views, _FIELDS)
    chain = _networks.encoder_and_heads(config)
    dtype = getattr(chain["encoder"], "dtype", "float32")
    hidden = _networks.widths(fields["hidden"])
    chain["bottleneck"] = Bottleneck(hidden, fields["bottleneck"], dtype, fields["head_bn"])
    chain["prototypes"] = Prototypes(fields["prototypes"])

    def init(key, batch):
        params, batch_stats = _networks.init(key, chain, views["a"]["size"])
        # A copy: a state in which two leaves are one buffer cannot be donated.
        teacher = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
        return params, {
            "batch_stats": batch_stats,
            "teacher": teacher,
            "centre": jnp.zeros(fields["prototypes"]),
            "step": jnp.zeros((), jnp.int32),
        }

    def embed(params, aux, batch, key):
        # Views of one size go through the encoder together, those of an image side by side, so that
        # the batch stays split over the devices as it came.
        images, teacher = batch["image"], aux["teacher"]
        key_a, key_b, local_key = jax.random.split(key, 3)
        both = [augment_view(key_a, images, views["a"]), augment_view(key_b, images, views["b"])]
        large = jnp.stack(both, axis=1)
        fixed, teacher_stats = _by_image(chain, teacher["params"], teacher["batch_stats"], large)
        run = partial(_by_image, {"encoder": chain["encoder"]}, params)
        seen, batch_stats = run(aux["batch_stats"], large)
        crops = [seen["encoder"]]
        if fields["num_local"]:
            keys = jax.random.split(local_key, fields["num_local"])
            local = partial(augment_view, images=images, view=views["local"])
            small, batch_stats = run(batch_stats, jax.vmap(local, out_axes=1)(keys))
            crops.append(small["encoder"])
        head = {name: module for name, module in chain.items() if name != "encoder"}
        student, batch_stats = _by_image(head, params, batch_stats, jnp.concatenate(crops, axis=1))
        outputs = {
            "student": student["prototypes"],
            "teacher": fixed["prototypes"],
            "embedding": fixed["bottleneck"][:, 0],
        }
        teacher = teacher | {"batch_stats": teacher_stats}
        return outputs, aux | {"batch_stats": batch_stats, "teacher": teacher}

    def loss_from_outputs(outputs, aux):
        ends, warmup = fields["teacher_temperature"], fields["teacher_warmup"]
        sharpness = teacher_temperature(aux["step"], config["num_train_steps"], ends, warmup)
        teacher, centre = jax.lax.stop_gradient(outputs["teacher"]), aux["centre"]
        value = dino_loss(
            outputs["student"], teacher, centre, fields["student_temperature"], sharpness
        )
        metrics = _networks.collapse_metrics(jax.lax.stop_gradient(outputs["embedding"]))
        metrics |= _networks.assignment_metrics(assignments(teacher, centre, sharpness))
        metrics["teacher_temperature"] = jnp.asarray(sharpness, jnp.float32)
        kept = fields["centre_momentum"]
        centre = kept * centre + (1 - kept) * teacher.mean(axis=(0, 1))
        return value, (aux | {"centre": centre}, metrics)

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        rate = 1 - byol.tau(step, config["num_train_steps"], fields["tau_base"])
        followed = _networks.ema_update(aux["teacher"]["params"], params, rate)
        return aux | {"teacher": aux["teacher"] | {"params": followed}, "step": step + 1}

    features = partial(_networks.features, chain, exported=teacher_encoder)
    return Objective(
        *(init, embed, loss_from_outputs, after_update, features, _METRICS),
        exported=teacher_encoder,
        collapse_advice="lower config.optimizer.learning_rate, or config.objective.centre_momentum",
    )


def _by_image(
    chain: _networks.Chain, params: Any, batch_stats: Any, images: Float[Array, "b v *shape"]
) -> tuple[dict[str, Float[Array, "b v d"]], dict[str, Any]]:
    """Applies the chain to all views of all images at once."""
    originals, views = images.shape[:2]
    flat = images.reshape(originals * views, *images.shape[2:])
    outputs, batch_stats = _networks.apply(chain, params, batch_stats, flat)
    return jax.tree.map(lambda x: x.reshape(originals, views, -1), outputs), batch_stats


def check(fields: Section, views: Section, names: Sequence[str]) -> None:
    """Raises ValueError for views, or values of the fields `names`, that do not fit."""
    check_fields(fields, "config.objective", names)
    check_fields(views, "config.views", ("a", "b", "local"))
    for name in ("a", "b", "local"):
        check_view(views[name], f"config.views.{name}")
    if views["a"]["size"] != views["b"]["size"]:
        sizes = f"{views['a']['size']} and {views['b']['size']}"
        raise ValueError(f"config.views a and b have sizes {sizes}; DINO needs one size for both")
    check_positive({"objective": fields}, ("objective.prototypes", "objective.student_temperature"))
    ends = fields["teacher_temperature"]
    if len(ends) != 2 or min(ends) <= 0:
        raise ValueError(
            f"config.objective.teacher_temperature is {ends}; it needs (first, last), both > 0"
        )
    if fields["num_local"] < 0:
        raise ValueError(f"config.objective.num_local is {fields['num_local']}; it must be >= 0")
    for name in {"teacher_warmup", "centre_momentum", "tau_base"}.intersection(names):
        if not 0 <= fields[name] <= 1:
            raise ValueError(f"config.objective.{name} is {fields[name]}; it is in [0, 1]")

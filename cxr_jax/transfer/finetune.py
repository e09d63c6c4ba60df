"""Fine-tuning: the whole encoder under a linear head, at several learning rates.

Every encoder gets the same: each rate the same steps over the same batches, and AUROC on validation
at evenly spaced steps. The weights at the end of the training that ended best score test, once; an
earlier moment's only where validation tells it from that end (the 95 % interval of the difference
lies above 0). The best of many moments on a few validation images is a lucky one, often of the
first steps, at the peak of the rate (docs/results/study.md). Equal seeds give equal results on one
machine; a GPU's convolutions may still add up in another order. Exclusive classes are told apart by
a softmax over those that are scored; scores are log-probabilities.

Fields of config.finetune:

learning_rates  one training each, at the peak of the schedule
optimizer       "adamw" or "sgd" (cxr_jax/training/optim.py; momentum .9)
weight_decay    as in cxr_jax/training/optim.py; biases and norms are left out
warmup          share of the steps in which the rate rises from 0; then it falls as a cosine to 0
norm_eval       batch norm by the encoder's running statistics, which stay, in place of the batch's
layer_decay     the rate is multiplied by this for every depth below the head: 1 is off
lora            rank and alpha of adapters that are trained in the encoder's place
                (cxr_jax/objectives/_lora.py); rank 0: all of it is trained
epochs          passes over the training images, but at least min_steps and at most max_steps
min_steps       the fewest: with 34 images an epoch is a step or two
max_steps       the most
evaluations     how many moments of a training are judged on validation, the last step being one
batch_size      images per step; fewer where there are fewer images
dtype           of the computation, "float32" or "bfloat16"; weights are float32
mean_teacher    unlabelled images take part (cxr_jax/objectives/supervised.py); weight 0: off
num_workers     decoding processes, for sets large enough to repay their start; 0: threads alone
view            the augmentation (cxr_jax/augment/views.py); its size is the encoder's image_size
"""

import json
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from cxr_jax.augment.views import check_view
from cxr_jax.config import check_fields, check_positive, check_values
from cxr_jax.data.splits import LabelledSplit, image_batches
from cxr_jax.objectives import _lora, supervised
from cxr_jax.stats.bootstrap import label_auroc
from cxr_jax.stats.verdict import compare_auroc
from cxr_jax.training import sharding
from cxr_jax.transfer._protocol import (
    Head,
    Protocol,
    Result,
    Splits,
    Tools,
    against,
    at_labels,
    positive_numbers,
    targets_of,
    usable_labels,
)
from cxr_jax.transfer._training import Trainer, check_finite, plan
from cxr_jax.weights.encoder import Encoder

_RESAMPLES = 200  # of validation's patients
_COUNTS = ("epochs", "min_steps", "max_steps", "evaluations", "batch_size")
_OTHERS = (
    "learning_rates optimizer weight_decay warmup norm_eval layer_decay lora dtype mean_teacher "
    "num_workers view"
)


def make(config: ConfigDict) -> Protocol:
    """Returns the protocol "finetune"; of the config it reads finetune, seed and batch_size."""
    fields, rates = config.finetune, _check(config)
    listed = ", ".join(f"{rate:g}" for rate in rates)
    depth_by_depth = "the same rate at every depth"
    if fields.layer_decay != 1:
        depth_by_depth = (
            f"a rate {fields.layer_decay:g} times as high at every depth below the head"
        )

    teacher = fields.mean_teacher
    with_teacher = (
        f"Mean teacher: the moving average of the weights (decay {teacher.decay:g}) is what is "
        "scored; with it the network learns to agree on other views, also of training images "
        "outside the label fraction, whose labels nothing reads (weight of the squared difference "
        f"{teacher.weight:g}, rising over {teacher.ramp_up:.0%} of the steps).",
    )

    by_running = "Batch norm worked by the encoder's running statistics, in training too."
    what = "The whole encoder and a linear head"
    if rank := fields.lora.rank:
        what = (
            f"LoRA of rank {rank} and alpha {fields.lora.alpha:g} in the encoder's matrices and a "
            "linear head"
        )

    def method(exclusive: bool) -> tuple[str, ...]:
        softmax = " under a softmax over the classes" if exclusive else ""
        return (
            f"{what}{softmax} trained by {fields.optimizer} in "
            f"{fields.dtype} on augmented images (config.json), with cosine schedule and warm-up, "
            f"for {fields.epochs:g} epochs (at least {fields.min_steps:,} steps, at most "
            f"{fields.max_steps:,}) at each of the learning rates {listed}; "
            f"{depth_by_depth}.",
            "The learning rate whose training ended with the highest macro AUROC on validation was "
            "chosen, and the weights of that end scored test, or those of the best of "
            f"{fields.evaluations} moments of every training where validation told it from that "
            "end (95 % interval of the difference, patients resampled); the same budget for every "
            "encoder.",
            *((by_running,) if fields.norm_eval else ()),
            *(with_teacher if teacher.weight else ()),
            *against(exclusive),
        )

    settings = json.loads(ConfigDict(fields).to_json()) | {"seed": config.seed, "chosen": "end"}
    del settings["num_workers"]  # it changes the speed alone
    for name, off in (("lora", not rank), ("norm_eval", not fields.norm_eval)):
        if off:  # as before there was such a field
            del settings[name]
    return Protocol("Fine-tuning", method, settings, partial(_run, config, rates))


def _check(config: ConfigDict) -> tuple[float, ...]:
    """Returns the learning rates, ascending. Raises ValueError for a field that makes no sense."""
    fields = config.finetune
    check_fields(fields, "config.finetune", (*_COUNTS, *_OTHERS.split()))
    check_positive(config, [f"finetune.{name}" for name in _COUNTS])
    rates = positive_numbers(config, "finetune.learning_rates")
    check_values(
        *(fields, "config.finetune"),
        ("optimizer", fields.optimizer in ("adamw", "sgd"), "'adamw' or 'sgd'"),
        ("dtype", fields.dtype in ("float32", "bfloat16"), "'float32' or 'bfloat16'"),
        ("weight_decay", fields.weight_decay >= 0, "0 or more"),
        ("warmup", 0 <= fields.warmup < 1, "a share of the steps, 0 or more and below 1"),
        ("norm_eval", type(fields.norm_eval) is bool, "True or False"),
        ("layer_decay", 0 < fields.layer_decay <= 1, "above 0 and at most 1 (off)"),
        ("num_workers", fields.num_workers >= 0, "0 or more"),
        ("max_steps", fields.max_steps >= fields.min_steps, "min_steps or more"),
    )
    if "size" in fields.view:
        raise ValueError(
            "config.finetune.view has no field 'size': views are as large as the images that the "
            "encoder reads (its image_size)"
        )
    _lora.check(fields.lora, "config.finetune.lora")
    supervised.check_teacher(fields.mean_teacher, "config.finetune.mean_teacher")
    check_view({**fields.view, "size": 1}, "config.finetune.view")
    return rates


class _Moment(NamedTuple):
    auroc: float
    rate: float
    step: int
    scores: Float[np.ndarray, "v u"]
    network: dict[str, Any]


def _run(
    config: ConfigDict, rates: tuple[float, ...], encoder: Encoder, splits: Splits, tools: Tools
) -> Result:
    fields, names = config.finetune, splits.test.label_names
    exclusive = splits.test.task.exclusive
    labels, not_scored = usable_labels(
        splits.train.targets, splits.validation.targets, names, exclusive
    )
    train, validation = (
        split._replace(targets=targets_of(split.targets, labels, exclusive)) for split in splits[:2]
    )
    mesh = sharding.make_mesh()
    planned = plan(fields, len(train.rows), mesh.size)
    sharding.check_batch(planned.batch_size, mesh, "finetune.batch_size")
    trainer = Trainer(config, encoder, train, planned, mesh)
    # In memory: it is read many times (11,000 images of 224 px are 560 MB).
    images = np.concatenate(list(image_batches(validation, config.batch_size, encoder.image_size)))
    best, curve, remarks = _search(trainer, rates, images, validation, encoder.name, tools)
    batches = image_batches(splits.test, config.batch_size, encoder.image_size)
    scores = trainer.scores(best.network, batches)
    trained = {name: part["encoder"] for name, part in best.network.items()}
    head = jax.device_get(best.network["params"]["head"])
    kernel, bias = (at_labels(head[part], labels, len(names)) for part in ("kernel", "bias"))
    unlabelled = len(train.rest) if fields.mean_teacher.weight else 0
    if fields.mean_teacher.weight and not unlabelled:
        remarks.append(
            "The mean teacher saw labelled images alone: none lies outside config.label_fraction."
        )
    others = f", {unlabelled:,} more without labels" if unlabelled else ""
    return Result(
        scores=at_labels(scores, labels, len(names)),
        not_scored=not_scored,
        summary=f"images of {encoder.image_size} px{others}, learning rate {best.rate:g}, step "
        f"{best.step:,} of {planned.num_steps:,} with batches of {planned.batch_size}, "
        f"validation macro AUROC {best.auroc:.3f}",
        facts={
            "learning_rate": best.rate,
            "step": best.step,
            "num_steps": planned.num_steps,
            "batch_size": planned.batch_size,
            "unlabelled_films": unlabelled,
            "curve": curve,
        },
        score_kind="log-probability" if exclusive else "log-odds",
        head=Head(encoder._replace(variables=jax.device_get(trained)), kernel, bias),
        remarks=tuple(remarks),
    )


def _search(
    trainer: Trainer,
    rates: tuple[float, ...],
    images: UInt8[np.ndarray, "v h w 1"],
    validation: LabelledSplit,
    name: str,
    tools: Tools,
) -> tuple[_Moment, list[dict[str, float]], list[str]]:
    """Returns the moment that is chosen, every moment's numbers, and remarks for the report.

    Ties go to the lower rate, then to the earlier step. Raises FloatingPointError if no rate gave a
    finite loss.
    """
    targets = validation.targets
    best = end = None
    curve, remarks = [], []
    for index, rate in enumerate(rates):
        head = f"{name}, learning rate {rate:g} ({index + 1} of {len(rates)}): "
        try:
            moments = trainer.train(rate, lambda line, h=head: tools.say(h + line))
            for step, loss, network in moments:
                scores = trainer.scores(network, [images])
                check_finite(step, "scores", scores)
                score = float(label_auroc(targets, scores).mean())
                tools.say(f"{head}step {step}  loss {loss:.4f}  validation AUROC {score:.3f}")
                tools.log(step, {f"loss/rate_{rate:g}": loss, f"auroc/rate_{rate:g}": score})
                curve.append({"rate": rate, "step": step, "loss": loss, "validation_auroc": score})
                better = best is None or score > best.auroc
                ends = step == trainer.num_steps and (end is None or score > end.auroc)
                if better or ends:
                    # A copy: the next step is given the network's memory.
                    kept = jax.tree.map(jnp.copy, network)
                    moment = _Moment(score, rate, step, scores, kept)
                    best, end = moment if better else best, moment if ends else end
        except FloatingPointError as error:
            remarks.append(f"Learning rate {rate:g} was given up: {error}.")
            tools.say(f"{head}given up, {error}")
    if best is None:
        raise FloatingPointError(
            f"fine-tuning {name}: every learning rate was given up. {' '.join(remarks)} "
            "Lower config.finetune.learning_rates"
        )
    chosen = best if end is None else _choose(best, end, validation)
    if len(rates) > 1 and chosen.rate in (rates[0], rates[-1]):
        which = "lowest" if chosen.rate == rates[0] else "highest"
        remarks.append(f"The chosen learning rate {chosen.rate:g} is the {which} tried.")
    return chosen, curve, remarks


def _choose(best: _Moment, end: _Moment, validation: LabelledSplit) -> _Moment:
    """Returns `end`, or `best` where the interval of its lead on validation lies above 0."""
    scores, patients = (best.scores, end.scores), np.array(validation.patient_ids)
    found = compare_auroc(validation.targets, *scores, patients, _RESAMPLES)
    return best if found.low > 0 else end

"""What a protocol is: how an encoder's worth on labelled images is measured. One file each.

A file of this folder with a function `make(config) -> Protocol` is a protocol, called by the file's
name in config.protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from cxr_jax import plugins
from cxr_jax.config import Section
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.stats.auroc import auroc, binary_rows
from cxr_jax.weights.encoder import Encoder


class Splits(NamedTuple):
    train: LabelledSplit
    validation: LabelledSplit
    test: LabelledSplit


class Tools(NamedTuple):
    """What the loop lends a protocol."""

    extract: Callable[[str], Float[np.ndarray, "n d"]]  # frozen features of a field of Splits
    say: Callable[[str], None]  # a line to the person who waits
    log: Callable[[int, Mapping[str, float]], None]  # (step, numbers) of a training


class Head(NamedTuple):
    """Logits are `features @ kernel + bias`, features those of `encoder` as it was trained.

    Scores that are log-odds are the logits; the log-probabilities of exclusive classes are the
    log-softmax of the logits of the scored classes: the head stands before the softmax. The column
    of a label that was not scored is NaN.
    """

    encoder: Encoder
    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]


class Result(NamedTuple):
    """What a protocol found for m test images and k labels.

    scores grow with the chance of the label; score_kind says how (predictions.py). A label
    that could not be scored has NaN scores, is False in `scored`, and has its reason in
    `not_scored` (by label index). `notes`: by label index, what a reader should know of a scored
    label. `remarks`: sentences about the whole. `summary`: in a few words what was chosen, for the
    report. `facts`: the same for programs, as JSON. `head`: where scores are a linear function of
    features, that function.
    """

    scores: Float[np.ndarray, "m k"]
    scored: Bool[np.ndarray, " k"]
    not_scored: dict[int, str]
    notes: dict[int, str]
    remarks: tuple[str, ...]
    summary: str
    facts: dict[str, Any]
    score_kind: str
    head: Head | None


class Protocol(NamedTuple):
    """title: "Linear probe". method: (are the labels exclusive classes) -> sentences for the
    report, true of every encoder.

    settings: every field that changes a result, as JSON; a finished result is taken up again only
    if they are the same. run_many, where there is one: (encoder, splits with the whole of train,
    rows of train, tools) -> for each of the subsets of rows what `run` gives, for less work.
    """

    title: str
    method: Callable[[bool], tuple[str, ...]]
    settings: dict[str, Any]
    run: Callable[[Encoder, Splits, Tools], Result]
    run_many: (
        Callable[[Encoder, Splits, Sequence[Int[np.ndarray, "..."]], Tools], list[Result]] | None
    ) = None


def build(config: Section) -> Protocol:
    """`cxr_jax.transfer.<config.protocol>.make(config)`.

    Raises ValueError for a name that is no protocol of this folder, naming those it holds, and for
    settings that make no sense.
    """
    return plugins.find("cxr_jax.transfer", config["protocol"], "make", "protocol")(config)


def usable_labels(
    train: Shaped[np.ndarray, "n k"],
    validation: Shaped[np.ndarray, "v k"],
    label_names: tuple[str, ...] = (),
) -> tuple[Int[np.ndarray, " u"], dict[int, str]]:
    """The labels with both classes in train and in validation, and why the others lack one.

    Targets are 0, 1 or NaN (missing). Raises ValueError for other targets, naming split and row,
    and, naming the reasons, if no label at all is left.
    """
    num_labels = train.shape[1]
    reasons = ((k, _unusable(train[:, k], validation[:, k], k)) for k in range(num_labels))
    not_scored = {k: reason for k, reason in reasons if reason}
    labels = np.setdiff1d(np.arange(num_labels), list(not_scored))
    if not labels.size:
        raise ValueError(
            "no label can be scored: "
            + "; ".join(
                f"{label_names[k] if label_names else f'label {k}'}: {reason}"
                for k, reason in not_scored.items()
            )
            + ". More labelled patients are needed (config.label_fraction)"
        )
    return labels, not_scored


def usable_classes(
    train: Shaped[np.ndarray, "n k"],
    validation: Shaped[np.ndarray, "v k"],
    label_names: tuple[str, ...] = (),
) -> tuple[Int[np.ndarray, " u"], dict[int, str]]:
    """As `usable_labels`, of exclusive classes (data/tasks.py, to_exclusive).

    A class without images in train or in validation is not scored. Its images teach nothing about
    the others (`targets_of`): probabilities are those among the scored classes. Raises ValueError
    also where fewer than two classes are left.
    """
    labels, not_scored = usable_labels(train, validation, label_names)
    if len(labels) < 2:
        raise ValueError(
            f"of {train.shape[1]} exclusive classes only {len(labels)} has images in training and "
            "in validation; two are needed. More labelled patients are needed "
            "(config.label_fraction)"
        )
    return labels, not_scored


def targets_of(
    targets: Shaped[np.ndarray, "n k"], labels: Int[np.ndarray, " u"], exclusive: bool
) -> Shaped[np.ndarray, "n u"]:
    """The targets of these labels; of exclusive classes, NaN where the image is of none of them."""
    chosen = np.array(targets[:, labels])
    if exclusive:
        chosen[~(chosen == 1).any(axis=1)] = np.nan
    return chosen


def _unusable(
    train: Shaped[np.ndarray, " n"], validation: Shaped[np.ndarray, " v"], k: int
) -> str | None:
    """Why label k cannot be scored, or None."""
    reasons = []
    for name, targets in (("training", train), ("validation", validation)):
        try:
            targets, _ = binary_rows(targets, np.zeros(len(targets)))
        except ValueError as error:
            raise ValueError(f"{name} targets, label {k}: {error}") from error
        absent = [
            what for what, value in (("positives", 1), ("negatives", 0)) if value not in targets
        ]
        if absent:
            reasons.append(f"no {' and no '.join(absent)} among the {name} labels")
    return "; ".join(reasons) or None


def against(exclusive: bool) -> tuple[str, ...]:
    """What AUROC means of exclusive classes, in a sentence for the report."""
    return ("AUROC of a class: its images against those of all the others.",) if exclusive else ()


def macro_auroc(targets: Shaped[np.ndarray, "n k"], scores: Shaped[np.ndarray, "n k"]) -> float:
    """The mean of the labels' AUROC; every label needs both classes."""
    return float(np.mean([auroc(target, score) for target, score in zip(targets.T, scores.T)]))


def positive_numbers(config: Section, name: str) -> tuple[Any, ...]:
    """The field `name` ("knn.k") as a tuple, ascending, each number once; one number is a tuple.

    Raises ValueError if it is empty or holds anything but positive finite numbers.
    """
    value: Any = config
    for part in name.split("."):
        value = value[part]
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    try:
        good = bool(given) and all(np.isfinite(number) and number > 0 for number in given)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"config.{name} is {value!r}: give positive numbers, such as (1, 10)")
    return tuple(sorted(set(given)))

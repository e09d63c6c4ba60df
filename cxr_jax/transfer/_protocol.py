"""The type of a protocol, which measures an encoder on labelled images; and what protocols share.

A file of this folder with a function `make(config) -> Protocol` is a protocol, called by the file's
name in config.protocol.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from cxr_jax import plugins
from cxr_jax.config import Section
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.stats.auroc import binary_rows
from cxr_jax.weights.encoder import Encoder

ENOUGH = 1024  # images whose features have nearly the mean and deviation of all


class Splits(NamedTuple):
    train: LabelledSplit
    validation: LabelledSplit
    test: LabelledSplit


class Head(NamedTuple):
    """A linear head: logits are `features @ kernel + bias`, features those of `encoder`.

    Scores that are log-odds are the logits; the log-probabilities of exclusive classes are the
    log-softmax of the logits of the scored classes. The column of a label that was not scored is
    NaN.
    """

    encoder: Encoder
    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]


class Shown(NamedTuple):
    """A test image for a picture: what a label's mask or boxes are, and where it was found.

    `truth` and `found` are on the central square of the image; `heat` is on the square that the
    encoder reads.
    """

    row: int
    label: int
    kind: str  # why it was chosen, in words
    score: float
    truth: Bool[np.ndarray, "s s"] | None = None
    found: Bool[np.ndarray, "s s"] | None = None
    heat: Float[np.ndarray, "h w"] | None = None


class Result(NamedTuple):
    """The scores of m test images for k labels, and how they came about.

    scores: they grow with the chance of the label; score_kind says how (predictions.py). A label
      that could not be scored has NaN scores.
    not_scored: why, by label index.
    summary: what was chosen, in a few words for the report. facts: the same for programs, as JSON.
    head: where scores are a linear function of features, that function.
    notes: by label index, what a reader should know of a scored label. remarks: sentences about the
      whole. fold: of a cross-validation, the fold of each image. shown: of a protocol that says
      where labels are, images for its own picture.
    """

    scores: Float[np.ndarray, "m k"]
    not_scored: dict[int, str]
    summary: str
    facts: dict[str, Any]
    score_kind: str
    head: Head | None = None
    notes: Mapping[int, str] = {}
    remarks: tuple[str, ...] = ()
    fold: Int[np.ndarray, " m"] | None = None
    shown: tuple[Shown, ...] = ()

    @property
    def scored(self) -> Bool[np.ndarray, " k"]:
        return ~np.isin(np.arange(self.scores.shape[1]), list(self.not_scored))


class Maps(NamedTuple):
    """Frozen maps of n images [n h w d]; they lie on disk and are read as they are asked for."""

    stored: np.ndarray  # float16 [N h w d], N >= n
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.stored.shape[1:])

    def take(self, places: Int[np.ndarray, " b"]) -> np.ndarray:
        """Returns these images' maps, float16 [b h w d]."""
        return self.stored[self.rows[places]]

    def at(self, places: Int[np.ndarray, " m"]) -> "Maps":
        """Returns the maps of these images alone, not read."""
        return Maps(self.stored, self.rows[places])


def _no_maps(name: str) -> Maps:
    raise ValueError("no maps of images are at hand")


def stand_ins(labelled: int, rest: Int[np.ndarray, " m"]) -> Int[np.ndarray, " o"]:
    """Returns those rows of `rest`, unlabelled training images, that make few labelled ones 1,024.

    They lie evenly in the split; which they are does not depend on which are labelled.

    >>> stand_ins(1022, np.arange(100, 200)), stand_ins(2000, np.arange(100)).size
    (array([178, 123]), 0)
    """
    even = rest.astype(np.uint64) * np.uint64(2_654_435_769) % np.uint64(1 << 32)  # golden ratio
    return rest[np.argsort(even, kind="stable")[: max(ENOUGH - labelled, 0)]]


class Tools(NamedTuple):
    """Functions that a protocol may call while it runs."""

    # Frozen features of a field of Splits, or "unlabelled": of `stand_ins`.
    extract: Callable[[str], Float[np.ndarray, "n d"]]
    say: Callable[[str], None]  # a line to the person who waits
    log: Callable[[int, Mapping[str, float]], None]  # (step, numbers) of a training
    # (fold, how to make it) -> its result, perhaps of an earlier start and then without a head
    once: Callable[[int, Callable[[], Result]], Result] = lambda fold, make: make()
    maps: Callable[[str], Maps] = _no_maps  # frozen maps of a field of Splits


class Protocol(NamedTuple):
    """One way to measure encoders.

    title: "Linear probe".
    method: (are the labels exclusive classes) -> sentences for the report, true of every encoder.
    settings: every field that changes a result, as JSON: results of other settings are made again.
    labels: gives splits whose labels are those that it scores, where they are not the task's, with
      a hash of the masks or boxes that it reads (LabelledSplit.marked).
    run_many: gives for each of several subsets of the rows of train what `run` gives, faster.
    reads: gives the arrays that it reads of an encoder beside its variables, for fingerprints;
      ValueError for an encoder that it cannot measure.
    files: name -> text of files that go into the result's workdir.
    learns: does it read training images; where not, no picture shows any.
    """

    title: str
    method: Callable[[bool], tuple[str, ...]]
    settings: dict[str, Any]
    run: Callable[[Encoder, Splits, Tools], Result]
    run_many: (
        Callable[[Encoder, Splits, Sequence[Int[np.ndarray, "..."]], Tools], list[Result]] | None
    ) = None
    reads: Callable[[Encoder], list[np.ndarray]] = lambda encoder: []
    files: Mapping[str, str] = {}
    labels: Callable[[Splits], Splits] = lambda splits: splits
    learns: bool = True


def build(config: Section) -> Protocol:
    """Returns `cxr_jax.transfer.<config.protocol>.make(config)`.

    Raises ValueError for an unknown name, naming the known ones, and for settings that make no
    sense.
    """
    return plugins.find("cxr_jax.transfer", config["protocol"], "make", "protocol")(config)


def usable_labels(
    train: Shaped[np.ndarray, "n k"],
    validation: Shaped[np.ndarray, "v k"],
    label_names: tuple[str, ...] = (),
    exclusive: bool = False,
) -> tuple[Int[np.ndarray, " u"], dict[int, str]]:
    """Returns the labels with both classes in train and in validation, and why the others lack one.

    Targets are 0, 1 or NaN (missing). Of exclusive classes those without images are not scored;
    probabilities are then those among the scored classes. Raises ValueError for other targets,
    naming split and row, and, naming the reasons, if no label (fewer than two exclusive classes)
    can be scored.
    """
    num_labels = train.shape[1]
    not_scored: dict[int, str] = {}
    for k in range(num_labels):
        for name, targets in (("training", train[:, k]), ("validation", validation[:, k])):
            try:
                binary_rows(targets, np.zeros(len(targets)))
            except ValueError as error:
                raise ValueError(f"{name} targets, label {k}: {error}") from error
            classes = (("positives", 1), ("negatives", 0))
            if absent := [what for what, value in classes if value not in targets]:
                reason = f"no {' and no '.join(absent)} among the {name} labels"
                not_scored[k] = f"{not_scored[k]}; {reason}" if k in not_scored else reason
    labels = np.setdiff1d(np.arange(num_labels), list(not_scored))
    if not labels.size:
        names = label_names or [f"label {k}" for k in range(num_labels)]
        reasons = "; ".join(f"{names[k]}: {reason}" for k, reason in not_scored.items())
        raise ValueError(
            f"no label can be scored: {reasons}. More labelled patients are needed "
            "(config.label_fraction; of a benchmark, config.fractions)"
        )
    if exclusive and len(labels) < 2:
        raise ValueError(
            f"of {num_labels} exclusive classes only {len(labels)} has images in training and in "
            "validation; two are needed. More labelled patients are needed (config.label_fraction)"
        )
    return labels, not_scored


def targets_of(
    targets: Shaped[np.ndarray, "n k"], labels: Int[np.ndarray, " u"], exclusive: bool
) -> Shaped[np.ndarray, "n u"]:
    """Returns these labels' targets: NaN for images that are of none of these exclusive classes."""
    chosen = np.array(targets[:, labels])
    if exclusive:
        chosen[~(chosen == 1).any(axis=1)] = np.nan
    return chosen


def examples(
    scores: Float[np.ndarray, "m k"], counts: Bool[np.ndarray, "m k"], labels: Sequence[int]
) -> list[tuple[int, int, str]]:
    """Returns (row, label, why) of pictures: of three labels the best, middle and worst image.

    >>> examples(np.array([[0.1], [0.9], [0.5], [0.0]]), np.array([[1], [1], [1], [0]], bool), [0])
    [(1, 0, 'the best'), (2, 0, 'the middle'), (0, 0, 'the worst')]
    """
    found = []
    for label in list(labels)[:3]:
        rows = np.flatnonzero(counts[:, label])
        ordered = rows[np.argsort(-scores[rows, label], kind="stable")]
        places = {0: "the best", len(rows) // 2: "the middle", len(rows) - 1: "the worst"}
        found += [(int(ordered[k]), int(label), why) for k, why in places.items() if len(rows)]
    return found


def at_labels(
    values: Shaped[np.ndarray, "... u"], labels: Int[np.ndarray, " u"], num_labels: int
) -> Float[np.ndarray, "... k"]:
    """Returns values in the columns of their labels, and NaN in the others.

    >>> at_labels(np.array([1.0, 2.0]), np.array([0, 2]), 3)
    array([ 1., nan,  2.])
    """
    spread = np.full((*values.shape[:-1], num_labels), np.nan)
    spread[..., labels] = values
    return spread


def against(exclusive: bool) -> tuple[str, ...]:
    """Says, for the report, what AUROC means of exclusive classes."""
    return ("AUROC of a class: its images against those of all the others.",) if exclusive else ()


def positive_numbers(config: Section, name: str) -> tuple[Any, ...]:
    """Returns the field `name` ("knn.k") as a tuple, ascending, each number once.

    One number is a tuple of one. Raises ValueError if it is empty or holds anything but positive
    finite numbers.

    >>> positive_numbers({"C": (10, 1, 10)}, "C")
    (1, 10)
    """
    value = functools.reduce(lambda part, field: part[field], name.split("."), config)
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    try:
        good = bool(given) and all(np.isfinite(number) and number > 0 for number in given)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"config.{name} is {value!r}: give positive numbers, such as (1, 10)")
    return tuple(sorted(set(given)))

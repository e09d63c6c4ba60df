"""How the raw labels of a dataset become targets.

Datasets store what their owner says: 1 present, 0 absent, -1 uncertain, NaN not mentioned; or a
certainty from 0 to 5; or a grade; one value, or one a reader. A Task turns that into targets: 1, 0,
or NaN for "no target: leave this image out for this label". Nothing here imports JAX, so that
builders and reports can use it. Which task a dataset has: tasks.py.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# One value an image, or one sequence of readers' values an image.
Column = Sequence[Any] | np.ndarray

# What -1 and a blank count as: Irvin et al. 2019, CheXpert, section 3.1, where U-zeros, U-ones and
# U-ignore are for -1; its models are trained with blanks as 0.
POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}
# Of several readers, how many must say so.
READERS = ("majority", "any", "all")


class Task(NamedTuple):
    """What is scored.

    Attributes:
      labels: reported name -> an expression of stored labels: "Edema", "not No Finding",
        "Edema severity = 2", "Edema severity >= 1", "Mass | Nodule" (either).
      uncertain, unmentioned: what -1 and NaN count as: zeros, ones or ignore (no target).
      readers: majority (more than half), any or all.
      certainty: from which certainty on a finding counts as present.
      views: images that take part, by view; () is all.
      exclusive: its labels are classes of which every image has exactly one (`one_class`).
    """

    labels: dict[str, str]
    uncertain: str = "zeros"
    unmentioned: str = "ignore"
    readers: str = "majority"
    certainty: float = 3.0
    views: tuple[str, ...] = ()
    exclusive: bool = False


NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis"),
    *("Pleural_Thickening", "Hernia"),
)


class Term(NamedTuple):
    """One stored label in an expression: `negated`, or compared with `value` by "=" or ">="."""

    label: str
    negated: bool = False
    comparison: str = ""
    value: float = 0.0


_COMPARED = re.compile(r"(.+?) (=|>=) (\d+(?:\.\d+)?)")


def parse(expression: str, label_names: Sequence[str]) -> list[Term]:
    """The terms of an expression, any of which makes it true.

    Raises:
      ValueError: it names a label that is not among `label_names`.
    """
    if expression in label_names:  # a label may be called "not diagnostic" or "a | b"
        return [Term(expression)]
    terms = []
    for part in expression.split(" | "):
        match = _COMPARED.fullmatch(part)
        if part in label_names:
            terms.append(Term(part))
        elif part.removeprefix("not ") in label_names:
            terms.append(Term(part.removeprefix("not "), negated=True))
        elif match and match[1] in label_names:
            terms.append(Term(match[1], comparison=match[2], value=float(match[3])))
        else:
            raise ValueError(f"no label {part!r}; there are: {', '.join(label_names)}")
    return terms


def targets(
    raw: Mapping[str, Column], task: Task, scale: str = "presence"
) -> Float[np.ndarray, "n k"]:
    """Raw label columns to targets in {0, 1, NaN}, one column per label of the task.

    Args:
      raw: stored label -> one value an image, or one sequence of readers' values an image.
      scale: the dataset's label_scale: presence, certainty or grade.

    Raises:
      ValueError: an unknown policy, or values outside the scale.
    """
    check_policies(task)
    columns = []
    for expression in task.labels.values():
        terms = parse(expression, tuple(raw))
        votes = [_votes(raw[term.label]) for term in terms]
        values = np.stack([_target(term, of, task, scale) for term, (of, _) in zip(terms, votes)])
        images = votes[0][1]
        columns.append(_of_readers(_either(values), images, len(raw[terms[0].label]), task.readers))
    return np.stack(columns, axis=1)


def one_class(
    found: Float[np.ndarray, "n k"], label_names: Sequence[str]
) -> Float[np.ndarray, "n k"]:
    """Targets of exclusive classes: every row one 1 and else 0, or NaN throughout.

    An image that has a class has no other, so what is missing beside a 1 becomes 0. An image without a
    1 of which some class is missing has no target at all: that none of the others is present does
    not make somebody's blank a finding.

    Raises:
      ValueError: naming the row and the labels, where two are 1, or all are 0.
    """
    count = (found == 1).sum(axis=1)
    for row in np.flatnonzero((count > 1) | (found == 0).all(axis=1))[:1]:
        present = [name for name, value in zip(label_names, found[row]) if value == 1]
        what = f"is {' and '.join(present)}" if present else f"is none of {', '.join(label_names)}"
        raise ValueError(
            f"row {row}: the image {what}; of exclusive classes it must be exactly one"
        )
    has = count == 1
    return np.where(has[:, None], np.float32(found == 1), np.float32(np.nan))


def check_policies(task: Task) -> None:
    """Refuses a policy that does not exist, and exclusive classes of which there is one.

    Raises:
      ValueError: names the field and what there is.
    """
    if task.exclusive and len(task.labels) < 2:
        raise ValueError(
            f"config.exclusive needs two labels or more to tell apart; the task has "
            f"{', '.join(task.labels) or 'none'}"
        )
    for field, known in (("uncertain", POLICIES), ("unmentioned", POLICIES), ("readers", READERS)):
        if getattr(task, field) not in known:
            raise ValueError(
                f"config.{field}={getattr(task, field)!r} is not a policy; there are {', '.join(known)}"
            )


def uncertain(
    raw: Mapping[str, Column], task: Task, scale: str = "presence"
) -> Bool[np.ndarray, "n k"]:
    """Where a target hangs on the policy for -1."""
    if scale != "presence":
        return np.zeros((len(next(iter(raw.values()))), len(task.labels)), bool)
    as_zeros = targets(raw, task._replace(uncertain="zeros"), scale)
    as_missing = targets(raw, task._replace(uncertain="ignore"), scale)
    return ~np.isnan(as_zeros) & np.isnan(as_missing)


def _votes(column: Column) -> tuple[Float[np.ndarray, "v"], np.ndarray]:
    """Every reader's value, and the image it is of."""
    if len(column) and np.ndim(column[0]):
        lengths = [len(values) for values in column]
        flat = np.concatenate([np.asarray(values, np.float32) for values in column])
        return flat, np.repeat(np.arange(len(column)), lengths)
    return np.asarray(column, np.float32), np.arange(len(column))


def _target(
    term: Term, values: Float[np.ndarray, "v"], task: Task, scale: str
) -> Float[np.ndarray, "v"]:
    """One stored label as 1, 0, NaN."""
    missing = np.isnan(values)
    if scale == "presence" and term.comparison:
        raise ValueError(
            f"label {term.label!r} is present or absent, not graded: write {term.label!r} or "
            f"'not {term.label}'"
        )
    if scale == "presence":
        _refuse(term.label, values[~missing & ~np.isin(values, (-1, 0, 1))], "1, 0, -1 or NaN")
        result = np.where(values == -1, np.float32(POLICIES[task.uncertain]), values)
    elif term.comparison:
        result = np.float32(
            values == term.value if term.comparison == "=" else values >= term.value
        )
    elif scale == "certainty":
        _refuse(term.label, values[~missing & ((values < 0) | (values > 5))], "0 to 5 or NaN")
        result = np.float32(values >= task.certainty)
    else:
        raise ValueError(
            f"label {term.label!r} holds grades: say which, as in '{term.label} >= 1' or '{term.label} = 1'"
        )
    result = np.where(missing, np.float32(POLICIES[task.unmentioned]), result)
    return np.float32(1) - result if term.negated else np.float32(result)


def _refuse(label: str, strange: np.ndarray, expected: str) -> None:
    if strange.size:
        raise ValueError(f"label {label!r} holds {strange[0]}; expected {expected}")


def _either(values: Float[np.ndarray, "terms v"]) -> Float[np.ndarray, "v"]:
    """1 where any term is 1; else NaN where any is unknown; else 0."""
    unknown = np.where(np.isnan(values).any(axis=0), np.float32(np.nan), np.float32(0))
    return np.where((values == 1).any(axis=0), np.float32(1), unknown)


def _of_readers(
    votes: Float[np.ndarray, "v"], images: np.ndarray, num_images: int, rule: str
) -> Float[np.ndarray, "n"]:
    """One target an image from its readers' votes; those without an opinion do not count."""
    count = np.bincount(images, ~np.isnan(votes), num_images)
    positive = np.bincount(images, votes == 1, num_images)
    agreed = {"majority": 2 * positive > count, "any": positive > 0, "all": positive == count}[rule]
    return np.where(count > 0, np.float32(agreed), np.float32(np.nan))

"""Turns the raw labels of a dataset into targets.

Datasets store what their owner says: 1 present, 0 absent, -1 uncertain, NaN not mentioned; or a
certainty from 0 to 5; or a grade; one value, or one a reader. A Task (tasks.py) turns that into
targets: 1, 0, or NaN for "no target: leave this image out for this label".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from cxr_jax.data.tasks import POLICIES, Task, Term, check_policies, parse

# One value an image, or one sequence of readers' values an image.
Column = Sequence[Any] | np.ndarray


def targets(
    raw: Mapping[str, Column], task: Task, scale: str = "presence"
) -> Float[np.ndarray, "n k"]:
    """Returns targets in {0, 1, NaN}, one column per label of the task.

    >>> targets({"Edema": [1, 0, -1]}, Task({"Edema": "Edema"}, uncertain_as="ones")).ravel()
    array([1., 0., 1.], dtype=float32)

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


def to_exclusive(
    found: Float[np.ndarray, "n k"], label_names: Sequence[str]
) -> Float[np.ndarray, "n k"]:
    """Returns targets of exclusive classes: every row one 1 and else 0, or NaN throughout.

    An image that has a class has no other, so what is missing beside a 1 becomes 0. An image
    without a 1 of which some class is missing has no target at all: a blank is not a finding, even
    if every other class is absent.

    >>> to_exclusive(np.float32([[1, np.nan], [0, np.nan]]), ["mild", "severe"])
    array([[ 1.,  0.],
           [nan, nan]], dtype=float32)

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


def uncertain(
    raw: Mapping[str, Column], task: Task, scale: str = "presence"
) -> Bool[np.ndarray, "n k"]:
    """Returns where a target depends on the policy for -1."""
    if scale != "presence":
        return np.zeros((len(next(iter(raw.values()))), len(task.labels)), bool)
    as_zeros = targets(raw, task._replace(uncertain_as="zeros"), scale)
    as_missing = targets(raw, task._replace(uncertain_as="ignore"), scale)
    return ~np.isnan(as_zeros) & np.isnan(as_missing)


def _votes(column: Column) -> tuple[Float[np.ndarray, " v"], Int[np.ndarray, " v"]]:
    """Returns every reader's value, and the number of the image that it is of."""
    if len(column) and np.ndim(column[0]):
        lengths = [len(values) for values in column]
        flat = np.concatenate([np.asarray(values, np.float32) for values in column])
        return flat, np.repeat(np.arange(len(column)), lengths)
    return np.asarray(column, np.float32), np.arange(len(column))


def _target(
    term: Term, values: Float[np.ndarray, " v"], task: Task, scale: str
) -> Float[np.ndarray, " v"]:
    """Returns one stored label as 1, 0, NaN."""
    missing = np.isnan(values)
    if scale == "presence" and term.comparison:
        raise ValueError(
            f"label {term.label!r} is present or absent, not graded: write {term.label!r} or "
            f"'not {term.label}'"
        )
    if scale == "presence":
        _refuse(term.label, values[~missing & ~np.isin(values, (-1, 0, 1))], "1, 0, -1 or NaN")
        result = np.where(values == -1, np.float32(POLICIES[task.uncertain_as]), values)
    elif term.comparison:
        result = np.float32(
            values == term.value if term.comparison == "=" else values >= term.value
        )
    elif scale == "certainty":
        _refuse(term.label, values[~missing & ((values < 0) | (values > 5))], "0 to 5 or NaN")
        result = np.float32(values >= task.certainty)
    else:
        raise ValueError(
            f"label {term.label!r} holds grades: say which, as in '{term.label} >= 1' or "
            f"'{term.label} = 1'"
        )
    result = np.where(missing, np.float32(POLICIES[task.missing_as]), result)
    return np.float32(1) - result if term.negated else np.float32(result)


def _refuse(label: str, strange: np.ndarray, expected: str) -> None:
    if strange.size:
        raise ValueError(f"label {label!r} holds {strange[0]}; expected {expected}")


def _either(values: Float[np.ndarray, "terms v"]) -> Float[np.ndarray, " v"]:
    """Returns 1 where any term is 1; else NaN where any is unknown; else 0."""
    unknown = np.where(np.isnan(values).any(axis=0), np.float32(np.nan), np.float32(0))
    return np.where((values == 1).any(axis=0), np.float32(1), unknown)


def _of_readers(
    votes: Float[np.ndarray, " v"], images: Int[np.ndarray, " v"], num_images: int, rule: str
) -> Float[np.ndarray, " n"]:
    """Returns one target an image from its readers' votes; NaN is no vote."""
    count = np.bincount(images, ~np.isnan(votes), num_images)
    positive = np.bincount(images, votes == 1, num_images)
    agreed = {"majority": 2 * positive > count, "any": positive > 0, "all": positive == count}[rule]
    return np.where(count > 0, np.float32(agreed), np.float32(np.nan))

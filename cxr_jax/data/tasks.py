"""Tasks: the labels of a dataset that are scored, under which policies, and their targets.

A dataset's builder declares its tasks (`TASKS`, by name; "default" is the one used unasked) and the
build stores them in the dataset's metadata.json. A dataset without tasks of its own has one: every
label. Labels stay as their owner has them; a task turns them into targets when they are read.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cxr_jax.io.text import composed, plain

FRONTAL = ("PA", "AP", "FRONTAL")
# What -1 and a blank count as: Irvin et al. 2019, CheXpert, section 3.1, where U-zeros, U-ones and
# U-ignore are for -1; its models are trained with blanks as 0.
POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}
# Of several readers, how many must say so.
READERS = ("majority", "any", "all")
_NAMED = 8  # labels, in a message
_COMPARED = re.compile(r"(.+?) (=|>=) (\d+(?:\.\d+)?)")

# One value an image, or one sequence of readers' values an image.
Column = Sequence[Any] | np.ndarray


class Task(NamedTuple):
    """The labels that are scored, and how they are read.

    labels: reported name -> an expression of stored labels: "Edema", "not No Finding",
      "Edema severity = 2", "Edema severity >= 1", "Mass | Nodule" (either).
    """

    labels: dict[str, str]
    uncertain_as: str = "zeros"  # what -1 counts as: zeros, ones or ignore (no target)
    missing_as: str = "ignore"  # what NaN counts as
    readers: str = "majority"  # more than half, any or all
    certainty: float = 3.0  # from which on a finding counts as present
    projections: tuple[str, ...] = ()  # of the images that take part; () is all
    exclusive: bool = False  # every image has exactly one of the labels


class Term(NamedTuple):
    """One stored label in an expression: `negated`, or compared with `value` by "=" or ">="."""

    label: str
    negated: bool = False
    comparison: str = ""
    value: float = 0.0


def as_stored(names: Iterable[str]) -> dict[str, str]:
    """Returns the labels of a task that scores stored labels under their own names.

    >>> as_stored(["Edema", "Mass"])
    {'Edema': 'Edema', 'Mass': 'Mass'}
    """
    return {name: name for name in names}


def parse(expression: str, label_names: Sequence[str]) -> list[Term]:
    """Returns the terms of an expression, any of which makes it true.

    >>> parse("Mass | not Nodule", ["Mass", "Nodule"])[1]
    Term(label='Nodule', negated=True, comparison='', value=0.0)

    Raises ValueError for a label that is not among `label_names`.
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


def check_policies(task: Task) -> None:
    """Raises ValueError for an unknown policy, and for less than two exclusive classes."""
    if task.exclusive and len(task.labels) < 2:
        raise ValueError(
            "config.exclusive needs two labels or more to tell apart; the task has "
            f"{', '.join(task.labels) or 'none'}"
        )
    fields = {"uncertain_as": POLICIES, "missing_as": POLICIES, "readers": READERS}
    for field, known in fields.items():
        if (value := getattr(task, field)) not in known:
            raise ValueError(
                f"config.{field}={value!r} is not a policy; choose one of {', '.join(known)}"
            )


def stored_tasks(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Task]:
    """Reads the tasks in the metadata of a built dataset's version folder.

    Raises ValueError, with the command that writes them, where there are none (older datasets) or
    they are damaged.
    """
    name = f"{folder.parents[1].name}/{folder.parent.name}"
    refresh = f"python -m data_builders.build {name} --data_dir={folder.parents[2]} --refresh"
    try:
        return {name: _from_json(tree) for name, tree in metadata["tasks"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"are damaged ({plain(str(error))})"
        if "tasks" not in metadata:
            why = "are not there, since an older version built it"
        raise ValueError(
            f"{folder}/metadata.json: its tasks {why}. Add them; the raw files are not needed:\n"
            f"  {refresh}"
        ) from error


def to_json(named: Mapping[str, Task]) -> dict[str, dict[str, Any]]:
    """Returns tasks as metadata.json stores them."""
    return {
        name: {**task._asdict(), "projections": list(task.projections)}
        for name, task in named.items()
    }


def _from_json(tree: dict[str, Any]) -> Task:
    types = dict(labels=dict, certainty=(int, float), projections=list, exclusive=bool)
    for field, value in tree.items():
        if not isinstance(value, types.get(field, str)):
            raise ValueError(f"{field} is of another type")
    if not all(isinstance(text, str) for text in (*tree["labels"].values(), *tree["projections"])):
        raise ValueError("a label or a projection is no text")
    task = Task(**{**tree, "projections": tuple(tree["projections"])})
    check_policies(task)
    return task


def changes_of(config: Any) -> dict[str, Any]:
    """Returns what a transfer's config changes of a task: its fields of the same names."""
    projections = tuple(name.strip() for name in config.projections.split(",") if name.strip())
    fields = ("uncertain_as", "missing_as", "readers", "certainty", "exclusive")
    return {field: config[field] for field in fields} | {"projections": projections}


def find_task(
    dataset: str,
    label_names: Sequence[str],
    named: Mapping[str, Task],
    wanted: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Task:
    """Finds the task `wanted`: a named one, labels (or expressions) by commas, or "" the default.

    >>> find_task("mine", ["Edema", "Mass"], {}, "Mass").labels
    {'Mass': 'Mass'}

    `named` are the dataset's own tasks; `changes` replace fields of the task: empty values change
    nothing, projections of ("any",) lift its restriction.

    Raises ValueError where it is neither a task nor labels of the dataset; for unknown policies.
    """
    wanted = composed(wanted)
    if not wanted or wanted in named:
        task = named.get(wanted or "default", Task(as_stored(label_names)))
    else:
        task = Task(as_stored(name.strip() for name in wanted.split(",")))
        default = named.get("default", task)
        # Some of exclusive classes are not exclusive classes: that is said anew.
        task = default._replace(labels=task.labels, exclusive=False)
    task = task._replace(**{field: value for field, value in (changes or {}).items() if value})
    if task.projections == ("any",):
        task = task._replace(projections=())
    check_policies(task)
    for expression in task.labels.values():
        try:
            parse(expression, label_names)
        except ValueError as error:
            raise ValueError(
                f"dataset {dataset} has {error} (config.task={wanted!r}). Its named tasks: "
                f"{', '.join(named) or 'none'}."
            ) from error
    return task


def targets(
    raw: Mapping[str, Column], task: Task, scale: str = "presence"
) -> Float[np.ndarray, "n k"]:
    """Returns targets, one column per label of the task: 1, 0, or NaN for no target.

    >>> targets({"Edema": [1, 0, -1]}, Task({"Edema": "Edema"}, uncertain_as="ones")).ravel()
    array([1., 0., 1.], dtype=float32)

    Args:
      raw: stored label -> its values; each is what the dataset's owner says: 1 present, 0 absent,
        -1 uncertain; or a certainty from 0 to 5; or a grade; NaN not mentioned.
      scale: the dataset's label_scale: presence, certainty or grade.

    Raises ValueError for an unknown policy, and for values outside the scale.
    """
    check_policies(task)
    columns = []
    for expression in task.labels.values():
        terms = parse(expression, tuple(raw))
        votes = [_votes(raw[term.label]) for term in terms]
        values = np.stack([_target(term, of, task, scale) for term, (of, _) in zip(terms, votes)])
        # Any term makes it 1; else an unknown one makes it NaN.
        unknown = np.where(np.isnan(values).any(axis=0), np.float32(np.nan), np.float32(0))
        either = np.where((values == 1).any(axis=0), np.float32(1), unknown)
        columns.append(_of_readers(either, votes[0][1], len(raw[terms[0].label]), task.readers))
    return np.stack(columns, axis=1)


def one_sided(found: Mapping[str, Float[np.ndarray, "n k"]], label_names: Sequence[str]) -> str:
    """Says which labels lack a positive or a negative image in a split; "" where none does.

    >>> one_sided({"test": np.float32([[1, 0], [np.nan, 1]])}, ["Edema", "Mass"])[:45]
    'test has no negative image of Edema: without '
    """
    lacking = []
    for split, targets in found.items():
        for what, value in (("positive", 1), ("negative", 0)):
            absent = [n for n, of in zip(label_names, targets.T) if not (of == value).any()]
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            if absent:
                lacking.append(f"{split} has no {what} image of {', '.join(absent[:_NAMED])}{more}")
    if not lacking:
        return ""
    return (
        f"{'; '.join(lacking)}: without both, a label cannot be chosen for or scored. What helps: "
        "more patients, splits that put some there (a column split in a table of your own), or a "
        "task without these labels (--config.task=LABEL,LABEL)."
    )


def to_exclusive(
    found: Float[np.ndarray, "n k"],
    label_names: Sequence[str],
    rows: Int[np.ndarray, " n"] | None = None,
    where: str = "",
) -> Float[np.ndarray, "n k"]:
    """Returns targets of exclusive classes: every row one 1 and else 0, or NaN throughout.

    What is missing beside a 1 becomes 0. Without a 1 an image of which some class is missing has no
    target: a blank is not a finding, even if every other class is absent.

    >>> to_exclusive(np.float32([[1, np.nan], [0, np.nan]]), ["mild", "severe"])
    array([[ 1.,  0.],
           [nan, nan]], dtype=float32)

    Raises ValueError, naming the row (by `rows`, its number in the dataset) and the labels, where
    two are 1 or all are 0.
    """
    count = (found == 1).sum(axis=1)
    for row in np.flatnonzero((count > 1) | (found == 0).all(axis=1))[:1]:
        present = [name for name, value in zip(label_names, found[row]) if value == 1]
        what = f"is {' and '.join(present)}" if present else f"is none of {', '.join(label_names)}"
        raise ValueError(
            f"{where}row {row if rows is None else rows[row]}: the image {what}; of exclusive "
            "classes it must be exactly one. Correct the labels; where a policy made them so, "
            "change it (--config.uncertain_as=ignore, --config.missing_as=ignore); or score the "
            "labels each on its own (by commas in --config.task, without --config.exclusive)"
        )
    return np.where(count[:, None] == 1, np.float32(found == 1), np.float32(np.nan))


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
    strange = values[:0]
    if scale == "presence":
        if term.comparison:
            raise ValueError(
                f"label {term.label!r} is present or absent, not graded: write {term.label!r} or "
                f"'not {term.label}'"
            )
        strange = values[~missing & ~np.isin(values, (-1, 0, 1))]
        result = np.where(values == -1, np.float32(POLICIES[task.uncertain_as]), values)
    elif term.comparison:
        result = np.float32(
            values == term.value if term.comparison == "=" else values >= term.value
        )
    elif scale == "certainty":
        strange = values[~missing & ((values < 0) | (values > 5))]
        result = np.float32(values >= task.certainty)
    else:
        raise ValueError(
            f"label {term.label!r} holds grades: say which, as in '{term.label} >= 1' or "
            f"'{term.label} = 1'"
        )
    if strange.size:
        expected = "1, 0, -1" if scale == "presence" else "0 to 5"
        raise ValueError(f"label {term.label!r} holds {strange[0]}; expected {expected} or NaN")
    result = np.where(missing, np.float32(POLICIES[task.missing_as]), result)
    return np.float32(1) - result if term.negated else np.float32(result)


def _of_readers(
    votes: Float[np.ndarray, " v"], images: Int[np.ndarray, " v"], num_images: int, rule: str
) -> Float[np.ndarray, " n"]:
    """Returns one target an image from its readers' votes; NaN is no vote."""
    count = np.bincount(images, ~np.isnan(votes), num_images)
    positive = np.bincount(images, votes == 1, num_images)
    agreed = {"majority": 2 * positive > count, "any": positive > 0, "all": positive == count}[rule]
    return np.where(count > 0, np.float32(agreed), np.float32(np.nan))

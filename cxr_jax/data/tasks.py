"""Tasks: which labels of a dataset are scored, under which policies, on which images.

A dataset's builder declares its tasks (`TASKS`, by name; "default" is the one used unasked) and the
build stores them in the dataset's metadata.json. A dataset without tasks of its own has one: every
label. Nothing here imports JAX, so that builders and reports can use it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.io.text import plain

FRONTAL = ("PA", "AP", "FRONTAL")
# What -1 and a blank count as: Irvin et al. 2019, CheXpert, section 3.1, where U-zeros, U-ones and
# U-ignore are for -1; its models are trained with blanks as 0.
POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}
# Of several readers, how many must say so.
READERS = ("majority", "any", "all")
_COMPARED = re.compile(r"(.+?) (=|>=) (\d+(?:\.\d+)?)")


class Task(NamedTuple):
    """What is scored.

    Attributes:
      labels: reported name -> an expression of stored labels: "Edema", "not No Finding",
        "Edema severity = 2", "Edema severity >= 1", "Mass | Nodule" (either).
      uncertain_as, missing_as: what -1 and NaN count as: zeros, ones or ignore (no target).
      readers: majority (more than half), any or all.
      certainty: from which certainty on a finding counts as present.
      projections: images that take part, by projection; () is all.
      exclusive: its labels are classes of which every image has exactly one.
    """

    labels: dict[str, str]
    uncertain_as: str = "zeros"
    missing_as: str = "ignore"
    readers: str = "majority"
    certainty: float = 3.0
    projections: tuple[str, ...] = ()
    exclusive: bool = False


class Term(NamedTuple):
    """One stored label in an expression: `negated`, or compared with `value` by "=" or ">="."""

    label: str
    negated: bool = False
    comparison: str = ""
    value: float = 0.0


def as_stored(names: Iterable[str]) -> dict[str, str]:
    """Returns the labels of a task that scores stored labels under their own names."""
    return {name: name for name in names}


def parse(expression: str, label_names: Sequence[str]) -> list[Term]:
    """Returns the terms of an expression, any of which makes it true.

    >>> parse("Mass | not Nodule", ["Mass", "Nodule"])[1]
    Term(label='Nodule', negated=True, comparison='', value=0.0)

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


def check_policies(task: Task) -> None:
    """Checks that the policies exist and that exclusive classes are two or more.

    Raises:
      ValueError: names the field and the choices.
    """
    if task.exclusive and len(task.labels) < 2:
        raise ValueError(
            f"config.exclusive needs two labels or more to tell apart; the task has "
            f"{', '.join(task.labels) or 'none'}"
        )
    fields = {"uncertain_as": POLICIES, "missing_as": POLICIES, "readers": READERS}
    for field, known in fields.items():
        value = getattr(task, field)
        if value not in known:
            raise ValueError(
                f"config.{field}={value!r} is not a policy; choose one of {', '.join(known)}"
            )


def stored_tasks(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Task]:
    """Reads the tasks in a built dataset's metadata.

    Args:
      folder: the version folder, for messages.

    Raises:
      ValueError: the dataset was built before tasks were stored in it, or they are damaged; says
        the command that writes them.
    """
    name = f"{folder.parents[1].name}/{folder.parent.name}"
    refresh = f"python -m data_builders.build {name} --data_dir={folder.parents[2]} --refresh"
    if "tasks" not in metadata:
        raise ValueError(
            f"{folder} was built by an older version, before builds stored the dataset's tasks in "
            f"it. Add them; the raw files are not needed:\n  {refresh}"
        )
    try:
        return {name: _from_json(tree) for name, tree in metadata["tasks"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}/metadata.json: its tasks are damaged ({plain(str(error))}). Write them "
            f"again:\n  {refresh}"
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

    Args:
      dataset: its name, for messages.
      named: the dataset's own tasks.
      changes: fields of the Task that replace its own; empty values change nothing, projections
        of ("any",) lift the task's restriction.

    Raises:
      ValueError: neither a task of this dataset nor labels that it has; an unknown policy.
    """
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

"""The table of datasets, as docs/datasets.md shows it, and the details of one."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from cxr_jax.data.tasks import FRONTAL, Task, as_stored

HEAD = ("NAME", "what", "default task", "other tasks", "splits")
_MOST_LABELS = 5


def what(cls: type) -> str:
    """Returns the dataset in a line: the first of its builder's docstring."""
    return sys.modules[cls.__module__].__doc__.splitlines()[0].rstrip(".")


def row(name: str, cls: type) -> tuple[str, ...]:
    """Returns one dataset's cells."""
    named = cls.TASKS
    labels = cls.LABEL_NAMES if isinstance(cls.LABEL_NAMES, tuple) else ()
    task = named.get("default", Task(as_stored(labels)))
    others = ", ".join(f"`{task}`" for task in named if task != "default")
    return (name, what(cls), words(task, cls), others or "–", splits(cls.SPLIT_RULE))


def words(task: Task, cls: type) -> str:
    """Says a task in words: its first labels, then every policy that is not the default."""
    labels = list(task.labels)
    if not labels:
        return "your labels, if any" if cls.name == "image_folder" else "every label"
    shown = ", ".join(labels[:_MOST_LABELS]) + (" …" if len(labels) > _MOST_LABELS else "")
    first = shown if len(labels) == 1 else f"{len(labels)} labels: {shown}"
    return "; ".join([first, *policies(task, cls)])


def policies(task: Task, cls: type) -> list[str]:
    """Lists what a task does beyond taking a label as it is."""
    parts = []
    if task.missing_as != "ignore":
        parts.append(f"−1 as {task.uncertain_as}, blanks as {task.missing_as}")
    if cls.READERS:
        parts.append(f"{task.readers} of the readers")
    if cls.LABEL_SCALE == "certainty":
        parts.append(f"certainty from {task.certainty:g} on")
    if task.projections:
        unknown = " and unknown ones" if task.projections != FRONTAL else ""
        parts.append("frontal images" + unknown)
    return parts


def splits(rule: str) -> str:
    """Says in few words who made the splits; each dataset's README has the whole rule."""
    hashed, owners = "70 % train" in rule, "owner's test" in rule or "split file" in rule
    if hashed and "no labels" in rule:
        return "by patient, 70/10/20"
    if hashed and owners:
        return "owner's or by patient"
    if hashed:
        return "by patient, 70/10/20"
    return "owner's" if "owner" in rule or "split file" in rule else "own"


def markdown(classes: Mapping[str, type]) -> str:
    """Returns the table of builder classes, one line a dataset."""
    rows = [HEAD, tuple("---" for _ in HEAD), *(row(name, cls) for name, cls in classes.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def details(name: str, cls: type) -> str:
    """Describes one dataset: raw files, options, labels, tasks, splits."""
    lines = [f"{name}: {what(cls)}", "", cls.MANUAL_DOWNLOAD_INSTRUCTIONS or "Needs no raw files."]
    own = {**cls.INPUTS, **cls.OPTIONS}
    lines += [f"  --{option}  {text}" for option, text in own.items()]
    if cls.BUILDER_CONFIGS:
        lines.append(f"  --resolution  {', '.join(config.name for config in cls.BUILDER_CONFIGS)}")
    labels = cls.LABEL_NAMES if isinstance(cls.LABEL_NAMES, tuple) else ()
    if labels:
        lines += ["", f"Labels ({cls.LABEL_SCALE}): {', '.join(labels)}"]
    for title, task in cls.TASKS.items():
        flag = "unasked" if title == "default" else f"--config.task={title}"
        named = [
            label if label == stored else f"{label} ({stored})"
            for label, stored in task.labels.items()
        ]
        lines.append(
            f"Task, {flag}: {', '.join(named)}; {'; '.join(policies(task, cls)) or 'plain'}"
        )
    return "\n".join([*lines, "", f"Splits: {cls.SPLIT_RULE}", f"Licence: {cls.LICENCE}"])

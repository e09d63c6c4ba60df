"""Which labels a task scores and how raw label values become targets.

Datasets store raw values: 1 present, 0 absent, -1 uncertain, NaN not mentioned. A Task turns them
into targets: 1, 0, or NaN for "no target, leave this row out for this label". Nothing here imports
JAX, so that builders and reports can use it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# What an uncertain (-1) label counts as: Irvin et al. 2019, CheXpert, section 3.1.
UNCERTAIN_POLICIES = {"zeros": 0.0, "ones": 1.0, "ignore": float("nan")}


class Task(NamedTuple):
    """labels: reported name -> stored label, or "not <stored label>" for its complement."""

    labels: dict[str, str]
    uncertain: str = "zeros"


NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis"),
    *("Pleural_Thickening", "Hernia"),
)

# Tasks other than "every label of the dataset", by dataset and name; "default" is used unasked.
TASKS: dict[str, dict[str, Task]] = {
    "nih_chestxray14": {
        "default": Task({name: name for name in NIH_FINDINGS}),
        "any_finding": Task({"Any finding": "not No Finding"}),
    },
}


def find_task(dataset: str, label_names: Sequence[str], wanted: str, uncertain: str) -> Task:
    """The task called `wanted` ("" for the dataset's default, or label names joined by commas).

    Raises:
      ValueError: neither a task of this dataset nor labels that it has.
    """
    if uncertain not in UNCERTAIN_POLICIES:
        raise ValueError(
            f"config.uncertain={uncertain!r} is not a policy; there are "
            f"{', '.join(UNCERTAIN_POLICIES)}"
        )
    named = TASKS.get(dataset.split("/")[0], {})
    everything = Task({name: name for name in label_names})
    if not wanted or wanted in named:
        task = named.get(wanted or "default", everything)
    else:
        names = [name.strip() for name in wanted.split(",")]
        task = Task({name: name for name in names})
    missing = [
        label
        for label in task.labels.values()
        if label not in label_names and label.removeprefix("not ") not in label_names
    ]
    if missing:
        raise ValueError(
            f"dataset {dataset} has no label {', '.join(map(repr, missing))} "
            f"(config.task={wanted!r}). Its labels: {', '.join(label_names)}. "
            f"Its named tasks: {', '.join(named) or 'none'}."
        )
    return task._replace(uncertain=uncertain)


def targets(raw: Mapping[str, Float[np.ndarray, "n"]], task: Task) -> Float[np.ndarray, "n k"]:
    """Raw label columns to targets in {0, 1, NaN}, one column per label of the task."""
    columns = []
    for label in task.labels.values():
        complement = label not in raw  # a label may itself be called "not diagnostic"
        values = np.asarray(raw[label.removeprefix("not ") if complement else label], np.float32)
        values = np.where(values == -1, np.float32(UNCERTAIN_POLICIES[task.uncertain]), values)
        strange = values[~np.isnan(values) & (values != 0) & (values != 1)]
        if strange.size:
            raise ValueError(f"label {label!r} holds {strange[0]}; expected 1, 0, -1 or NaN")
        columns.append(1 - values if complement else values)
    return np.stack(columns, axis=1)

"""The tasks of the public datasets: which labels are scored, under which policy, on which views.

"default" is what a transfer does unasked. A dataset that is not here has one task, every label. The
study's own label sets are not published (../shared/datasets.md); these are ours. README.md shows
this table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_jax.data.labels import NIH_FINDINGS, Task, check_policies, parse

FRONTAL = ("PA", "AP", "FRONTAL")

# CheXpert's, MIMIC-CXR's and BRAX's vocabulary, and the five labels of the CheXpert competition.
CHEXPERT_LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def _same(names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in names}


TASKS: dict[str, dict[str, Task]] = {
    "nih_chestxray14": {
        "default": Task(_same(NIH_FINDINGS)),
        "any_finding": Task({"Any finding": "not No Finding"}),
    },
}


def changes_of(config: Any) -> dict[str, Any]:
    """What a transfer's config changes of a task: its fields of the same names."""
    views = tuple(view.strip() for view in config.views.split(",") if view.strip())
    fields = ("uncertain", "unmentioned", "readers", "certainty")
    return {field: config[field] for field in fields} | {"views": views}


def find_task(
    dataset: str,
    label_names: Sequence[str],
    wanted: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Task:
    """The task called `wanted`: a named one, labels (or expressions) by commas, "" the default.

    Args:
      dataset: "name" or "name/config".
      changes: fields of the Task that replace its own; empty values change nothing, views of
        ("any",) lift the task's restriction.

    Raises:
      ValueError: neither a task of this dataset nor labels that it has; a policy unknown.
    """
    named = TASKS.get(dataset.split("/")[0], {})
    if not wanted or wanted in named:
        task = named.get(wanted or "default", Task(_same(label_names)))
    else:
        task = Task(_same([name.strip() for name in wanted.split(",")]))
        default = named.get("default", task)
        task = default._replace(labels=task.labels)
    task = task._replace(**{field: value for field, value in (changes or {}).items() if value})
    if task.views == ("any",):
        task = task._replace(views=())
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

"""A labelled split for evaluation: every image once, in order, with its targets and ids."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from cxr_jax.data import images, labels, tasks
from cxr_jax.data.dataset_info import open_built
from cxr_jax.data.reader import read_columns
from cxr_jax.data.source import Source, load_source


class LabelledSplit(NamedTuple):
    """Row i of every field belongs to record rows[i] of the source: labels travel with images."""

    source: Source
    rows: np.ndarray  # int [n]
    targets: Float[np.ndarray, "n k"]  # 1, 0, NaN: no target; exclusive: labels.one_class
    uncertain: Bool[np.ndarray, "n k"]  # -1 in the dataset, whatever the policy made of it
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    task: labels.Task
    other_views: int  # images left out because the task does not ask for their view
    sexes: tuple[str, ...] = ()  # "" unknown; these three are empty where nobody read them
    ages: tuple[float, ...] = ()  # years, NaN unknown
    views: tuple[str, ...] = ()  # "" unknown
    # Images of the split that a label fraction left out, by their records' places: int [m].
    rest: np.ndarray = np.zeros(0, int)

    def hashed_ids(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Image and patient ids for files that may be sent on; cxr_jax.data.ids tells whose."""
        hashed = self.source.hashed
        return hashed("image", self.image_ids), hashed("patient", self.patient_ids)

    def take(self, rows: np.ndarray) -> "LabelledSplit":
        return self._replace(
            rows=self.rows[rows],
            targets=self.targets[rows],
            uncertain=self.uncertain[rows],
            image_ids=tuple(self.image_ids[i] for i in rows),
            patient_ids=tuple(self.patient_ids[i] for i in rows),
            **{
                field: tuple(getattr(self, field)[i] for i in rows)
                for field in ("sexes", "ages", "views")
                if getattr(self, field)
            },
        )


def load_split(
    name: str,
    data_dir: str,
    split: str,
    task: str = "",
    changes: Mapping[str, Any] | None = None,
) -> LabelledSplit:
    """Reads ids and labels of a whole split (not its pixels).

    Args:
      task, changes: as of tasks.find_task.

    Raises:
      ValueError: the dataset has no labels, or lacks those of the task, or has no image of the
        task's views; an image of an exclusive task has two classes or none.
    """
    source = load_source(name, data_dir, split, fields=("image",))
    if not source.label_names:
        raise ValueError(
            f"dataset {name} has no labels, so nothing can be scored on it; build image_folder "
            "with --labels_csv, or choose another config.dataset"
        )
    chosen = tasks.find_task(name, source.label_names, task, changes)
    _check_changes(source, changes or {})
    names = [f"labels/{label}" for label in source.label_names]
    columns = read_columns(
        open_built(source.folder),
        split,
        ("image_id", "patient_id", "view", "sex", "age", *names),
    )
    views = columns["view"]
    rows = np.array([i for i, view in enumerate(views) if not chosen.views or view in chosen.views])
    if not len(rows):
        there = ", ".join(sorted({repr(view) for view in views}))
        raise ValueError(
            f"{name} {split!r} has no image of the views {', '.join(chosen.views)} that the task "
            f"asks for; its views are {there} ('' is unknown). Choose with --config.views=PA,AP "
            "or --config.views=any"
        )
    columns = {name: [column[i] for i in rows] for name, column in columns.items()}
    raw = {label: columns[f"labels/{label}"] for label in source.label_names}
    scale = source.metadata.get("label_scale", "presence")
    targets = labels.targets(raw, chosen, scale)
    if chosen.exclusive:
        targets = _one_class(targets, chosen, rows, f"{name} {split!r}")
    return LabelledSplit(
        source=source,
        rows=rows,
        targets=targets,
        uncertain=labels.uncertain(raw, chosen, scale),
        image_ids=tuple(columns["image_id"]),
        patient_ids=tuple(columns["patient_id"]),
        label_names=tuple(chosen.labels),
        task=chosen,
        other_views=len(views) - len(rows),
        sexes=tuple(columns["sex"]),
        ages=tuple(columns["age"]),
        views=tuple(columns["view"]),
    )


def _one_class(
    targets: Float[np.ndarray, "n k"], task: labels.Task, rows: np.ndarray, where: str
) -> Float[np.ndarray, "n k"]:
    found = np.full((rows.max() + 1, targets.shape[1]), np.nan, targets.dtype)
    found[rows] = targets  # errors then name the dataset's own rows
    try:
        return labels.one_class(found, tuple(task.labels))[rows]
    except ValueError as error:
        raise ValueError(
            f"{where}, {error}. Correct the labels; where a policy made them so, change it "
            "(--config.uncertain=ignore, --config.unmentioned=ignore); or score the labels each on "
            "its own (by commas in --config.task, without --config.exclusive)"
        ) from error


def _check_changes(source: Source, changes: Mapping[str, Any]) -> None:
    """Refuses a change of a policy that this dataset's labels do not know."""
    scale = source.metadata.get("label_scale", "presence")
    without = {
        "readers": "readers" not in source.fields,
        "certainty": scale != "certainty",
        "uncertain": scale != "presence",
    }
    for field, absent in without.items():
        if absent and changes.get(field):
            what = {"readers": "several readers", "certainty": "certainties", "uncertain": "-1"}
            raise ValueError(
                f"config.{field}={changes[field]} would change nothing: the labels of "
                f"{source.name} hold no {what[field]}"
            )


def image_batches(
    split: LabelledSplit, batch_size: int, image_size: int
) -> Iterator[UInt8[np.ndarray, "batch size size 1"]]:
    """Every image of the split once, in order; the last batch may be short, none is dropped."""

    def read(row: np.integer) -> np.ndarray:
        return images.decode_square(split.source.records[int(row)]["image"], image_size)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split.rows), batch_size):
            yield np.stack(list(pool.map(read, split.rows[start : start + batch_size])))

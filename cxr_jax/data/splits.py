"""Labels and boxes of whole splits: every image once, in order, with its targets and ids."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cxr_jax.data import images, tasks
from cxr_jax.data.dataset_info import RESTORE, open_built
from cxr_jax.data.reader import read_columns
from cxr_jax.data.source import Source, load_source

_CORNERS = ("y0", "x0", "y1", "x1")


class LabelledSplit(NamedTuple):
    """Row i of every field belongs to record rows[i] of the source: labels travel with images."""

    source: Source
    rows: np.ndarray  # int [n]
    targets: Float[np.ndarray, "n k"]  # 1, 0, NaN: no target; exclusive: tasks.to_exclusive
    uncertain: Bool[np.ndarray, "n k"]  # -1 in the dataset, whatever the policy made of it
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    label_names: tuple[str, ...]
    task: tasks.Task
    other_projections: int  # images left out because the task does not ask for their projection
    sexes: tuple[str, ...] = ()  # "" unknown; these three are empty where nobody read them
    ages: tuple[float, ...] = ()  # years, NaN unknown
    projections: tuple[str, ...] = ()  # "" unknown
    # Images of the split that a label fraction left out, by their records' places: int [m].
    rest: np.ndarray = np.zeros(0, int)
    marked: bytes = b""  # a hash of the whole split's masks or boxes, where a protocol reads them

    @property
    def labelled(self) -> Bool[np.ndarray, " n"]:
        """Whether an image has a target for any of the labels."""
        return ~np.isnan(self.targets).all(axis=1)

    def size(self) -> str:
        """Says how many images have a label, and of how many patients."""
        labelled = self.labelled
        patients = len(set(compress(self.patient_ids, labelled)))
        of = "1 patient" if patients == 1 else f"{patients:,} patients"
        return f"{int(labelled.sum()):,} images of {of}"

    def hashed_ids(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Returns image and patient ids for files that may leave the machine.

        `python -m data_builders.reidentify` finds whose they are.
        """
        hashed = self.source.hashed
        return hashed("image", self.image_ids), hashed("patient", self.patient_ids)

    def take(self, rows: np.ndarray) -> "LabelledSplit":
        """Returns the split with these rows alone, in this order."""
        arrays = {name: getattr(self, name)[rows] for name in ("rows", "targets", "uncertain")}
        names = ("image_ids", "patient_ids", "sexes", "ages", "projections")
        given = {name: getattr(self, name) for name in names if getattr(self, name)}
        chosen = {name: tuple(values[i] for i in rows) for name, values in given.items()}
        return self._replace(**arrays, **chosen)


def load_split(
    name: str,
    data_dir: str,
    split: str,
    task: str = "",
    changes: Mapping[str, Any] | None = None,
    or_masks: bool = False,
) -> LabelledSplit:
    """Reads ids and labels of a whole split (not its pixels); the task is as of tasks.find_task.

    With `or_masks` a dataset that has masks may have no labels. Raises as load_source, and
    ValueError where the dataset has no labels, or not the task's, or no image of its projections,
    or where an image has two of exclusive classes or none.
    """
    source = load_source(name, data_dir, split, fields=("image",))
    if not (source.label_names or (or_masks and "masks" in source.fields)):
        raise unlabelled(name)
    named = tasks.stored_tasks(source.folder, source.metadata)
    chosen = tasks.find_task(name, source.label_names, named, task, changes)
    _check_changes(source, changes or {})
    field = "projection" if "projection" in source.fields else "view"  # its name in older datasets
    stored_labels = [f"labels/{label}" for label in source.label_names]
    names = ("image_id", "patient_id", field, "sex", "age", *stored_labels)
    columns = source.columns(names)
    projections = columns[field]
    wanted = chosen.projections
    rows = np.array([i for i, one in enumerate(projections) if not wanted or one in wanted])
    if not len(rows):
        there = ", ".join(sorted({repr(projection) for projection in projections}))
        raise ValueError(
            f"{name} {split!r} has no image of the projections {', '.join(wanted)} that the task "
            f"asks for; it has {there} ('' is unknown). Choose with --config.projections=PA,AP or "
            "--config.projections=any"
        )
    columns = {name: [column[i] for i in rows] for name, column in columns.items()}
    raw = {label: columns[f"labels/{label}"] for label in source.label_names}
    scale = source.metadata.get("label_scale", "presence")
    targets, uncertain = np.zeros((len(rows), 0), np.float32), np.zeros((len(rows), 0), bool)
    if chosen.labels:
        targets = tasks.targets(raw, chosen, scale)
        uncertain = tasks.uncertain(raw, chosen, scale)
    if chosen.exclusive:
        targets = tasks.to_exclusive(targets, tuple(chosen.labels), rows, f"{name} {split!r}, ")
    return LabelledSplit(
        source=source,
        rows=rows,
        targets=targets,
        uncertain=uncertain,
        image_ids=tuple(columns["image_id"]),
        patient_ids=tuple(columns["patient_id"]),
        label_names=tuple(chosen.labels),
        task=chosen,
        other_projections=len(projections) - len(rows),
        sexes=tuple(columns["sex"]),
        ages=tuple(columns["age"]),
        projections=tuple(columns[field]),
    )


def unlabelled(name: str) -> ValueError:
    """Returns the error for a dataset without labels."""
    return ValueError(
        f"dataset {name} has no labels, so nothing can be scored on it; build image_folder "
        "with --labels_csv, or choose another config.dataset"
    )


def _check_changes(source: Source, changes: Mapping[str, Any]) -> None:
    """Refuses a change of a policy that would change nothing for this dataset's labels."""
    scale = source.metadata.get("label_scale", "presence")
    holds = {
        "several readers": ("readers", "readers" in source.fields),
        "certainties": ("certainty", scale == "certainty"),
        "-1": ("uncertain_as", scale == "presence"),
    }
    for what, (field, held) in holds.items():
        if changes.get(field) and not held:
            raise ValueError(
                f"config.{field}={changes[field]} would change nothing: the labels of "
                f"{source.name} hold no {what}"
            )


def image_batches(
    split: LabelledSplit, batch_size: int, image_size: int
) -> Iterator[UInt8[np.ndarray, "batch size size 1"]]:
    """Yields every image of the split once, in order; the last batch may be short."""

    def read(row: np.integer) -> np.ndarray:
        encoded = split.source.records[int(row)]["image"]
        return images.decode_square(encoded, image_size, split.source.fit)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split.rows), batch_size):
            yield np.stack(list(pool.map(read, split.rows[start : start + batch_size])))


def patient_subset(
    patient_ids: Sequence[str],
    fraction: float,
    seed: int,
    labelled: Bool[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, " kept"]:
    """Returns the rows of the first `fraction` of the patients, in an order fixed by the seed.

    The rows at 1 % are among those at 10 %. At least one patient is kept. Patients without a
    `labelled` image are neither counted nor drawn; at 1 every row is kept.

    >>> patient_subset(["p1", "p1", "p2", "p3"], 0.5, seed=0)
    array([2, 3])
    >>> patient_subset(["p1", "p1", "p2", "p3"], 0.5, seed=0, labelled=np.array([1, 0, 0, 1], bool))
    array([3])

    Raises ValueError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"config.label_fraction={fraction} must lie in (0, 1]; 0.01 means 1 %")
    if fraction == 1:
        return np.arange(len(patient_ids))
    of_labelled = set(patient_ids if labelled is None else compress(patient_ids, labelled))
    patients = sorted(of_labelled, key=lambda p: hashlib.sha256(f"{seed}:{p}".encode()).digest())
    kept = set(patients[: max(1, round(fraction * len(patients)))])
    return np.flatnonzero([patient in kept for patient in patient_ids])


class Boxed(NamedTuple):
    """The boxes of a split; `boxes` are y0, x0, y1, x1 in fractions of the square image."""

    source: Source
    boxes: Float[np.ndarray, "n 4"]
    labels: tuple[str, ...]
    images: Int[np.ndarray, " n"]  # the position of each box's image in the split
    flat: int  # boxes left out because they have no area

    def image(self, box: int, size: int) -> UInt8[np.ndarray, "size size 1"]:
        """Returns the square image that a box is on."""
        return images.decode_square(self.source.records[int(self.images[box])]["image"], size)


def load_boxes(name: str, data_dir: str, split: str) -> Boxed:
    """Reads all boxes of a split; raises as load_source, and ValueError where there are none."""
    source = load_source(name, data_dir, split, ("image",))
    if "boxes" not in source.fields:
        raise ValueError(
            f"dataset {name} has no boxes. Datasets under {Path(data_dir).resolve()} that have: "
            f"{', '.join(_with_boxes(data_dir)) or 'none'}. The drawn one has: "
            f"python -m data_builders.build phantom --data_dir={data_dir}"
        )
    corners, labels, owners = _read_corners(source, split)
    whole = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    if not whole.any():
        counts = {other: len(_read_corners(source, other)[0]) for other in source.splits}
        there = ", ".join(f"{other} {count:,}" for other, count in counts.items())
        raise ValueError(f"no image of {name} {split!r} has a box; boxes in its splits: {there}")
    corners, owners = corners[whole], owners[whole]
    sizes = {
        image: images.stored_size(source.records[image]["image"]) for image in set(owners.tolist())
    }
    square = [
        images.to_square(box[None], *sizes[image]) for box, image in zip(corners, owners.tolist())
    ]
    kept = tuple(label for label, keep in zip(labels, whole) if keep)
    return Boxed(source, np.concatenate(square), kept, owners, int((~whole).sum()))


def _read_corners(
    source: Source, split: str
) -> tuple[Float[np.ndarray, "n 4"], list[str], Int[np.ndarray, " n"]]:
    """Reads the corners in fractions of the stored images, the labels, and the images' rows."""
    columns = read_columns(
        open_built(source.folder), split, [f"boxes/{part}" for part in (*_CORNERS, "label")]
    )
    labels = columns["boxes/label"]
    counts = [[len(of_image) for of_image in column] for column in columns.values()]
    if any(count != counts[0] for count in counts):
        raise ValueError(f"{source.folder}: an image's boxes lack corners or labels. {RESTORE}")
    owners = np.repeat(np.arange(len(labels)), counts[0])
    corners = [np.concatenate([*columns[f"boxes/{part}"], []]) for part in _CORNERS]
    return np.stack(corners, axis=-1), [label for of_image in labels for label in of_image], owners


def _with_boxes(data_dir: str) -> list[str]:
    """Lists the built datasets that have boxes, as --dataset names them."""
    infos = sorted(Path(data_dir).expanduser().glob("*/*/[0-9]*/features.json"))
    found = {info.parts[-4:-2] for info in infos if '"boxes"' in info.read_text(errors="replace")}
    names = [name for name, _ in found]
    return [n if names.count(n) == 1 else f"{n}/{form}" for n, form in sorted(found)]

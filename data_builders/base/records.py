"""Records of images before they are read, and lists of images that are skipped.

A record holds an image's path and its labels together, so that they cannot part.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cxr_jax.io.atomic import atomic_write_csv
from cxr_jax.io.text import plain

SPLITS = ("train", "validation", "test")
CONTACT_SHEET = "contact_sheet.png"  # beside the images of a built dataset


class BuildError(ValueError):
    """Something the person who builds must fix; the message says what, where and how."""

    def __str__(self) -> str:
        return plain(super().__str__())


class AlreadyBuilt(BuildError):
    """The dataset is built already and --overwrite was not given."""


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """A finding's place on its image, as fractions of height and width in [0, 1]."""

    label: str
    y0: float
    x0: float
    y1: float
    x1: float


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One image and all that is said about it.

    Attributes:
      split: "train", "validation" or "test".
      image_id: unique in the dataset.
      patient_id: no two splits may share one.
      patient_known: False where patient_id is not known to be a person's, such as an image's own.
      image: a file, or a picklable function of no arguments that draws the image (uint8, [h w] or
        [h w 1]); `functools.partial(draw, seed)` is one. It is called in a worker process.
      labels: the owner's value for each of the builder's label names, on the builder's LABEL_SCALE:
        1, 0, -1 (uncertain) or NaN (not mentioned); a certainty; or a grade. Where the builder has
        READERS, a tuple with one value a reader.
      readers: who said it, one name a value, where the builder has READERS.
      projection: as `dicom.standard_projection` writes it.
      age: years, NaN if unknown; stored as unknown if negative or above dicom.OLDEST.
      masks: a picklable function of no arguments that gives the image's masks by name, for
        builders with MASK_NAMES; it is called in a worker process. None: it has no mask.
      report: the image's report, where the builder has reports; free of names.
      row: where the record was listed ("Data_Entry_2017.csv, row 17"), for error messages.
    """

    split: str
    image_id: str
    patient_id: str
    image: Path | Callable[[], UInt8[np.ndarray, "h w *channel"]]
    labels: Mapping[str, float | tuple[float, ...]] = dataclasses.field(default_factory=dict)
    readers: tuple[str, ...] = ()
    study_id: str = ""
    projection: str = ""
    sex: str = ""
    age: float = float("nan")
    boxes: tuple[Box, ...] = ()
    report: str = ""
    masks: Callable[[], Mapping[str, np.ndarray | None]] | None = None
    patient_known: bool = True
    row: str = ""

    @property
    def path(self) -> Path | None:
        """The image's file, also where a function with a `path` reads it; None if it is drawn."""
        image = getattr(self.image, "path", self.image)
        return image if isinstance(image, Path) else None


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A file (or a row) of the raw dataset that gives no example, and why."""

    file: str
    reason: str
    expected: bool = False  # left out by a rule of the dataset's, and no loss


def check_records(records: Iterable[Record], label_names: Iterable[str]) -> None:
    """Refuses records that no later step could repair.

    Raises BuildError: a split or label that does not exist, an image listed twice, a patient in two
    splits. The message names the rows.
    """
    names = set(label_names)
    by_image: dict[str, Record] = {}
    by_patient: dict[str, Record] = {}
    crossing: dict[str, tuple[Record, Record]] = {}
    for record in records:
        if record.split not in SPLITS:
            raise BuildError(f"{_where(record)}: its split is none of {', '.join(SPLITS)}.")
        if set(record.labels) != names:
            wrong = sorted(set(record.labels) ^ names)
            raise BuildError(f"{_where(record)}: labels {wrong} do not fit.")
        twin = by_image.setdefault(record.image_id, record)
        if twin is not record:
            raise BuildError(
                f"An image is listed twice: {_where(twin)} and {_where(record)}. Keep one."
            )
        first = by_patient.setdefault(record.patient_id, record)
        if first.split != record.split:
            crossing.setdefault(record.patient_id, (first, record))
    if crossing:
        first, second = next(iter(crossing.values()))
        count = len(crossing)
        raise BuildError(
            f"{count} patient{'s stand' if count > 1 else ' stands'} in two splits, which would "
            f"leak images of the same person from training into testing. For example "
            f"{_where(first)} is in {first.split!r} and {_where(second)}, of the same patient, in "
            f"{second.split!r}. Put each patient into one split."
        )


def _where(record: Record) -> str:
    """Returns where an image is listed, or its id if no table listed it."""
    return record.row or record.image_id


def write_skipped(path: Path, skipped: Iterable[Skipped]) -> None:
    """Writes skipped.csv: columns file, reason."""
    rows = ((entry.file, entry.reason) for entry in skipped)
    atomic_write_csv(path, [("file", "reason"), *rows])


def check_skipped(
    name: str, skipped: Sequence[Skipped], num_listed: int, max_skipped: float, path: Path
) -> None:
    """Raises BuildError if more than a fraction `max_skipped` of `num_listed` images is lost.

    Expected losses do not count. The list of the others is then left at `path`.
    """
    path.unlink(missing_ok=True)  # an earlier build's
    skipped = [entry for entry in skipped if not entry.expected]
    if len(skipped) <= max_skipped * num_listed:
        return
    write_skipped(path, skipped)
    share = len(skipped) / num_listed
    reasons = collections.Counter(entry.reason for entry in skipped).most_common(3)
    first = "; ".join(f"{entry.file} ({entry.reason})" for entry in skipped[:3])
    raise BuildError(
        f"{name}: {len(skipped):,} of {num_listed:,} images ({share:.1%}) cannot be used, more "
        f"than max_skipped={max_skipped:g} allows, so nothing was built. Most often: "
        f"{', '.join(f'{reason} ({count:,})' for reason, count in reasons)}. The first: {first}. "
        f"All of them are listed in {path}. Repair them, or allow this with "
        f"--max_skipped={math.ceil(100 * share) / 100:g}."
    )


def absent(records: Iterable[Record], manual_dir: Path | None) -> list[Skipped]:
    """Lists the images that are not there, by `name_of`."""
    return [
        Skipped(name_of(record, manual_dir), "no such file")
        for record in records
        if (path := record.path) is not None and not os.path.exists(path)
    ]


def name_of(record: Record, manual_dir: Path | None) -> str:
    """Returns the image's name in skipped.csv, or its row where there is no such file.

    The name that a table gives could be another column's value, and a patient's.
    """
    path = record.path
    if record.row and (path is None or not os.path.exists(path)):
        return record.row
    return relative_name(path or record.image, manual_dir)


def relative_name(image: Any, manual_dir: Path | None) -> str:
    """Returns the image's path below the manual folder, if it is there."""
    if isinstance(image, Path) and manual_dir is not None and image.is_relative_to(manual_dir):
        return image.relative_to(manual_dir).as_posix()
    return str(image)

"""REFLACX's tables: a row is one reader's reading of one image."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_builders.base import boxes, csv_table, folders
from data_builders.base.records import Box, BuildError

# Phases 2 and 3 ask for these, ...
LATER_CERTAINTIES = (
    *("Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation"),
    *("Enlarged cardiac silhouette", "Enlarged hilum", "Groundglass opacity", "Hiatal hernia"),
    *("High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass"),
    *("Pleural abnormality", "Pneumothorax", "Pulmonary edema"),
)
# ... phase 1 for these.
FIRST_CERTAINTIES = (
    *("Airway wall thickening", "Atelectasis", "Consolidation", "Emphysema"),
    *("Enlarged cardiac silhouette", "Fibrosis", "Fracture", "Groundglass opacity", "Mass"),
    *("Nodule", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary edema"),
    "Wide mediastinum",
)
# Yes or no, not a certainty.
FIRST_FLAGS, LATER_FLAGS = ("Quality issue", "Support devices"), ("Support devices",)
PHASES = {
    1: (*FIRST_CERTAINTIES, *FIRST_FLAGS),
    2: (*LATER_CERTAINTIES, *LATER_FLAGS),
    3: (*LATER_CERTAINTIES, *LATER_FLAGS),
}
LABELS = tuple(dict.fromkeys((*PHASES[3], *PHASES[1])))
TABLES = {phase: f"metadata_phase_{phase}.csv" for phase in PHASES}
ELLIPSES = "anomaly_location_ellipses.csv"

_SIDE = re.compile(r"[1-9][0-9]{0,4}")  # pixels
_CERTAINTIES = {text: value for value in range(6) for text in (str(value), f"{value}.0")}
_YES_NO = {"True": 5.0, "TRUE": 5.0, "False": 0.0, "FALSE": 0.0}
_TRUE = dict.fromkeys(("True", "TRUE", "1", "1.0"), True)
_FALSE = dict.fromkeys(("False", "FALSE", "0", "0.0"), False)
_MARKS = _TRUE | _FALSE


class Reading(NamedTuple):
    """One reader's reading; `labels` holds those that its phase asks, `image` the DICOM's path."""

    reading_id: str
    dicom_id: str
    subject_id: str
    image: str
    split: str
    size: tuple[int, int]  # height and width in pixels
    labels: Mapping[str, float]
    where: str


def read_readings(root: Path) -> Iterator[Reading]:
    """The readings of all phases whose metadata is there.

    Args:
      root: the folder main_data.

    Raises:
      BuildError: a column or value that is none, a reading listed twice.
    """
    seen: dict[str, str] = {}
    for phase, name in TABLES.items():
        if not any((root / f"{name}{end}").exists() for end in ("", ".gz")):
            continue
        for reading in read_phase(csv_table.Table(folders.require(root, name)), PHASES[phase]):
            twin = seen.setdefault(reading.reading_id, reading.where)
            if twin != reading.where:
                raise BuildError(
                    f"A reading is listed twice: {twin} and {reading.where}. Keep one."
                )
            yield reading


def read_phase(table: csv_table.Table, names: Collection[str]) -> Iterator[Reading]:
    """The readings of one phase, which asks for the labels `names`."""
    columns = ("id", "dicom_id", "subject_id", "image", "split", "image_size_x", "image_size_y")
    at = [table.index(column) for column in columns]
    at_labels = {name: table.index(name) for name in names}
    for row in table.rows((*columns, *names)):
        reading_id, dicom_id, subject_id, image, split, width, height = (row.fields[i] for i in at)
        if not (_SIDE.fullmatch(width) and _SIDE.fullmatch(height)):
            raise BuildError(f"{row.where}: image_size_x, image_size_y are no pixels.")
        yield Reading(
            reading_id=reading_id,
            dicom_id=dicom_id,
            subject_id=subject_id,
            image=image,
            split=split,
            size=(int(height), int(width)),
            labels={n: parse_label(n, row.fields[i], row.where) for n, i in at_labels.items()},
            where=row.where,
        )


def parse_label(name: str, cell: str, where: str) -> float:
    """A certainty, 0 (absent) to 5 (consistent with); of yes-or-no labels 5 is yes.

    Raises:
      BuildError: another value.
    """
    flag = name in FIRST_FLAGS
    values = _YES_NO if flag else _CERTAINTIES
    if cell not in values:
        expected = "True or False" if flag else "a certainty from 0 to 5"
        raise BuildError(f"{where}: {name} is not {expected}.")
    return float(values[cell])


def reading_folders(root: Path) -> frozenset[str]:
    """The readings that have a folder."""
    return frozenset(entry.name for entry in os.scandir(root) if entry.is_dir())


def read_boxes(root: Path, reading: Reading, present: Collection[str]) -> tuple[Box, ...]:
    """The ellipses of a reading as their bounding boxes, one for each label an ellipse has.

    An ellipse of a finding in the reader's own words (`Other`) gives none.

    Args:
      present: reading_folders(root).

    Raises:
      BuildError: no folder of the reading; an ellipse without four numbers, or a label that is
        neither True nor False.
    """
    if reading.reading_id not in present:
        raise BuildError(
            f"{reading.where}: {root} has no folder of its id. Download main_data with the "
            "readings' folders (gaze_data is not needed)."
        )
    path = root / reading.reading_id / ELLIPSES
    if not path.exists():
        return ()
    table = csv_table.Table(path)
    corners = [table.index(column) for column in ("xmin", "ymin", "xmax", "ymax")]
    labels = {name: table.columns.index(name) for name in LABELS if name in table.columns}
    found = []
    for row in table.rows(table.columns):
        where = f"{reading.reading_id}/{row.where}"
        numbers = [csv_table.number(row.fields[i]) for i in corners]
        if None in numbers:
            raise BuildError(f"{where}: expected numbers in xmin, ymin, xmax, ymax.")
        x0, y0, x1, y1 = numbers
        for name, i in labels.items():
            mark = row.fields[i]
            if mark not in _MARKS:
                raise BuildError(f"{where}: {name} is not True or False.")
            if _MARKS[mark]:
                found.append(boxes.from_pixels(name, (x0, y0, x1, y1), reading.size, where))
    return tuple(found)

"""REFLACX (Bigolin Lanfredi et al. 2022): readers' certainties, ellipses for MIMIC-CXR images."""

import collections
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import Task, as_stored
from data_builders.base import boxes, builder, csv_table, folders
from data_builders.base.records import Box, BuildError, Record, Skipped
from data_builders.mimic_cxr import mimic_cxr_dataset_builder as mimic_cxr

# Phases 2 and 3 ask for these, …
LATER_CERTAINTIES = (
    *("Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation"),
    *("Enlarged cardiac silhouette", "Enlarged hilum", "Groundglass opacity", "Hiatal hernia"),
    *("High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass"),
    *("Pleural abnormality", "Pneumothorax", "Pulmonary edema"),
)
# … phase 1 for these.
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
_CERTAINTIES = {text: float(text[0]) for n in range(6) for text in (str(n), f"{n}.0")}
_YES_NO = {"True": 5.0, "TRUE": 5.0, "False": 0.0, "FALSE": 0.0}
_MARKS = {
    **dict.fromkeys(("True", "TRUE", "1", "1.0"), True),
    **dict.fromkeys(("False", "FALSE", "0", "0.0"), False),
}


class Builder(builder.CxrBuilder):
    """Labels and boxes alone, for MIMIC-CXR-JPG's images. An image's readings are its readers."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Download main_data of https://physionet.org/content/reflacx-xray-localization/ (gaze_data "
        "is not needed) into manual_dir; the images are MIMIC-CXR-JPG's: give its folder with "
        "--mimic_dir, or put both into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/reflacx-xray-localization/"
    LABEL_NAMES: ClassVar = LABELS
    LABEL_SCALE: ClassVar = "certainty"
    READERS: ClassVar = True
    TASKS: ClassVar = {"default": Task(as_stored(PHASES[3]), certainty=3.0)}
    PARENT: ClassVar = "mimic_cxr"
    PATIENT: ClassVar = "person, by MIMIC-CXR's number"
    LICENCE: ClassVar = "PhysioNet restricted access licence"
    SPLIT_RULE: ClassVar = "MIMIC-CXR's split file; validate is validation."
    HAS_BOXES: ClassVar = True
    INPUTS: ClassVar = {"mimic_dir": mimic_cxr.WHERE_TO_GET}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        tables = tuple(TABLES.values())
        root = self.root(manual_dir, *tables)
        mimic = mimic_cxr.find_root(self.input_dir("mimic_dir", manual_dir))
        by_image: dict[str, list[Reading]] = collections.defaultdict(list)
        for reading in read_readings(root):
            by_image[reading.dicom_id].append(reading)
        images = {
            image.dicom_id: image
            for image in mimic_cxr.read_images(mimic)
            if image.dicom_id in by_image
        }
        splits = mimic_cxr.read_splits(mimic)
        # The readings that have a folder.
        present = frozenset(path.name for path in root.iterdir() if path.is_dir())
        for dicom_id, readings in by_image.items():
            readings.sort(key=lambda reading: reading.reading_id)
            if dicom_id not in images or dicom_id not in splits:
                table = "split file" if dicom_id in images else "metadata"
                yield Skipped(readings[0].where, f"not in MIMIC's {table}")
                continue
            image, split = images[dicom_id], splits[dicom_id].value
            for reading in readings:
                check_image(reading, image, split)
            yield mimic_cxr.record_of(
                mimic,
                image,
                split=split,
                labels={  # one value a reading; NaN where its phase does not ask for the label
                    name: tuple(reading.labels.get(name, float("nan")) for reading in readings)
                    for name in LABELS
                },
                readers=tuple(reading.reading_id for reading in readings),
                boxes=tuple(box for one in readings for box in read_boxes(root, one, present)),
                row=readings[0].where,
            )


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
    """Yields the readings of all phases whose metadata is in `root`, the folder main_data."""
    seen: dict[str, Reading] = {}
    for phase, name in TABLES.items():
        path = folders.optional(root, name)
        if path is None:
            continue
        for reading in read_phase(csv_table.Table(path), PHASES[phase]):
            csv_table.keep_one(seen, reading.reading_id, "id", reading)
            yield reading


def read_phase(table: csv_table.Table, names: Collection[str]) -> Iterator[Reading]:
    """Yields the readings of one phase, which asks for the labels `names`."""
    columns = ("id", "dicom_id", "subject_id", "image", "split", "image_size_x", "image_size_y")
    for where, fields in table.select((*columns, *names)):
        reading_id, dicom_id, subject_id, image, split, width, height, *cells = fields
        if not (_SIDE.fullmatch(width) and _SIDE.fullmatch(height)):
            raise BuildError(f"{where}: image_size_x, image_size_y are no pixels.")
        size = int(height), int(width)
        labels = {name: parse_label(name, cell, where) for name, cell in zip(names, cells)}
        yield Reading(reading_id, dicom_id, subject_id, image, split, size, labels, where)


def parse_label(name: str, cell: str, where: str) -> float:
    """Returns a certainty, 0 to 5; of yes-or-no labels 5 is yes; BuildError for another cell."""
    flag = name in FIRST_FLAGS
    values = _YES_NO if flag else _CERTAINTIES
    if cell not in values:
        expected = "True or False" if flag else "a certainty from 0 to 5"
        raise BuildError(f"{where}: {name} is not {expected}.")
    return values[cell]


def read_boxes(root: Path, reading: Reading, present: Collection[str]) -> tuple[Box, ...]:
    """Returns the bounding boxes of a reading's ellipses, one for each label an ellipse has.

    An ellipse of a finding in the reader's own words (`Other`) gives none.

    Args:
      present: the readings that have a folder in `root`.

    Raises BuildError: no folder of the reading; an ellipse without four numbers, or a label that is
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
    places = [table.index(column) for column in ("xmin", "ymin", "xmax", "ymax")]
    labels = {name: table.columns.index(name) for name in LABELS if name in table.columns}
    found = []
    for row in table.rows(table.columns):
        where = f"{reading.reading_id}/{row.where}"
        cells = [row.fields[place] for place in places]
        corners = csv_table.numbers(cells, "xmin, ymin, xmax, ymax", where)
        for name, i in labels.items():
            mark = row.fields[i]
            if mark not in _MARKS:
                raise BuildError(f"{where}: {name} is not True or False.")
            if _MARKS[mark]:
                found.append(boxes.from_pixels(name, tuple(corners), reading.size, where))
    return tuple(found)


def check_image(reading: Reading, image: mimic_cxr.Radiograph, split: str) -> None:
    """Raises BuildError for a reading that MIMIC has under another patient, study or split."""
    place = f"/p{image.subject_id}/s{image.study_id}/{image.dicom_id}."
    if reading.subject_id != image.subject_id or place not in reading.image:
        raise BuildError(
            f"{reading.where}: subject_id and image are not those that MIMIC has for its image "
            f"({image.where}). The rows or columns have been moved against each other."
        )
    if mimic_cxr.SPLITS.get(reading.split) != split:
        raise BuildError(
            f"{reading.where}: in MIMIC's split file the image is in {split}, not in the split "
            "here. Restore both tables."
        )

"""RANZCR CLiP (Tang et al. 2021): 30,083 images with the places of tubes and lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from data_builders.base import boxes, builder, csv_table, folders, splits
from data_builders.base.boxes import BoxRow
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.ranzcr_clip import lines

LABELS = (
    "ETT - Abnormal",
    "ETT - Borderline",
    "ETT - Normal",
    "NGT - Abnormal",
    "NGT - Borderline",
    "NGT - Incompletely Imaged",
    "NGT - Normal",
    "CVC - Abnormal",
    "CVC - Borderline",
    "CVC - Normal",
    "Swan Ganz Catheter Present",
)
SUFFIXES = (".jpg", ".jpeg")

_PATIENT = re.compile(r"[0-9a-f]{9}", re.IGNORECASE)


class Builder(builder.CxrBuilder):
    """Kaggle's folder; only its train part has labels, and is split here by patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Accept the rules of Kaggle's ranzcr-clip-catheter-line-classification, download it and "
        "unpack train.csv, train_annotations.csv (optional) and train/*.jpg into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://www.kaggle.com/c/ranzcr-clip-catheter-line-classification"
    LABEL_NAMES: ClassVar = LABELS
    TASK: ClassVar = "multilabel"
    LICENCE: ClassVar = "the rules of Kaggle's competition"
    SPLIT_RULE: ClassVar = (
        "70 % train, 10 % validation, 20 % test by a fixed hash of the patient; the owner's test "
        "images have no labels and are not part."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 30_083}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = folders.find_root(manual_dir, ("train.csv",), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        table = csv_table.Table(folders.require(root, "train.csv"))
        images = folders.by_stem(root / "train", SUFFIXES)
        drawn = lines.read_lines(root, LABELS)
        placed = lines.place(drawn, images, self.settings.num_workers)
        columns = ("StudyInstanceUID", "PatientID", *LABELS)
        at = [table.index(column) for column in columns]
        listed: dict[str, Mapping[str, float]] = {}
        for row in table.rows(columns):
            image, patient, *values = (row.fields[i] for i in at)
            listed[image] = csv_table.flags(LABELS, values, row.where)
            yield Record(
                split=splits.by_patient(check_patient(patient, row.where)),
                image_id=image,
                patient_id=patient,
                image=images.get(image, root / "train" / f"{image}.jpg"),
                labels=listed[image],
                study_id=image,
                boxes=placed.get(image, ()),
                row=row.where,
            )
        for image in sorted(images.keys() - listed.keys()):
            name = images[image].relative_to(root).as_posix()
            yield Skipped(name, f"no row in {table.path.name}")
        yield from boxes.check_rows(drawn, lambda row: has_label(row, listed), lines.FILE)


def has_label(row: BoxRow, labels_of: Mapping[str, Mapping[str, float]]) -> bool | None:
    """Whether a line's label is positive on its image; None if the image has no row."""
    return None if row.image not in labels_of else labels_of[row.image][row.label] == 1


def check_patient(patient: str, where: str) -> str:
    """The patient's id itself.

    Raises:
      BuildError: it has not the nine hexadecimal digits that all have. Spreadsheets read 12e456789
        as a number and 000123456 without its zeros, and so join patients.
    """
    if not _PATIENT.fullmatch(patient):
        raise BuildError(
            f"{where}: PatientID has not nine hexadecimal digits. A spreadsheet may have changed "
            "the file; restore the owner's."
        )
    return patient

"""MIMIC-CXR-JPG's tables, for MIMIC-CXR and for the datasets that label its images."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cxr_jax.io import dicom
from data_builders.base import csv_table, folders
from data_builders.base.records import BuildError

# The names keep "2.0.0" in release 2.1.0.
METADATA = "mimic-cxr-2.0.0-metadata.csv"
SPLIT = "mimic-cxr-2.0.0-split.csv"
CHEXPERT = "mimic-cxr-2.0.0-chexpert.csv"
SPLITS = {"train": "train", "validate": "validation", "test": "test"}
WHERE_TO_GET = (
    "MIMIC-CXR-JPG, from https://physionet.org/content/mimic-cxr-jpg/: the folder with "
    f"{METADATA}, {SPLIT} (or .gz) and files/p10/p1…/s5…/….jpg"
)


class Radiograph(NamedTuple):
    """A row of the metadata; `view` as dicom.standard_projection writes it."""

    dicom_id: str
    subject_id: str
    study_id: str
    view: str
    where: str


def find_root(mimic_dir: Path) -> Path:
    """The folder with the tables, `mimic_dir` or up to two folders below it.

    Raises:
      BuildError: nowhere.
    """
    return folders.find_root(mimic_dir, (METADATA,), f"{WHERE_TO_GET}.")


def read_images(root: Path) -> Iterator[Radiograph]:
    """The images that the metadata lists.

    Raises:
      BuildError: an id that is none, as after a program has rewritten it as a number.
    """
    table = csv_table.Table(folders.require(root, METADATA))
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    at = [table.index(column) for column in columns]
    standard: dict[str, str] = {}
    for row in table.rows(columns):
        dicom_id, subject_id, study_id, view = [row.fields[i] for i in at]
        check_ids(subject_id, study_id, row.where)
        if view not in standard:
            standard[view] = dicom.standard_projection(view)
        yield Radiograph(dicom_id, subject_id, study_id, standard[view], row.where)


class Split(NamedTuple):
    """A row of the split file; `name` is our split's."""

    name: str
    subject_id: str
    where: str


def read_splits(root: Path) -> dict[str, Split]:
    """dicom_id -> its row.

    Raises:
      BuildError: an unknown split, or an image listed twice.
    """
    table = csv_table.Table(folders.require(root, SPLIT))
    columns = ("dicom_id", "subject_id", "split")
    at = [table.index(column) for column in columns]
    splits: dict[str, Split] = {}
    for row in table.rows(columns):
        dicom_id, subject_id, split = [row.fields[i] for i in at]
        if split not in SPLITS:
            raise BuildError(f"{row.where}: split is none of {', '.join(SPLITS)}.")
        if dicom_id in splits:
            raise BuildError(
                f"{row.where}: its image is listed twice, in {splits[dicom_id].where} too. Keep one row."
            )
        splits[dicom_id] = Split(SPLITS[split], subject_id, row.where)
    return splits


def check_ids(subject_id: str, study_id: str, where: str) -> None:
    """Refuses ids that are not eight digits.

    Raises:
      BuildError: says where.
    """
    for name, value in (("subject_id", subject_id), ("study_id", study_id)):
        if not (len(value) == 8 and value.isascii() and value.isdigit()):
            raise BuildError(f"{where}: {name} has not eight digits. Restore the owner's file.")


@functools.lru_cache
def subject_folder(root: Path, subject_id: str) -> Path:
    """Where a patient's images (in MIMIC-CXR: reports) lie; cached, since making paths is slow."""
    return root / "files" / f"p{subject_id[:2]}" / f"p{subject_id}"


def image_path(root: Path, image: Radiograph) -> Path:
    """Where the image lies, whether it is there or not."""
    return subject_folder(root, image.subject_id) / f"s{image.study_id}/{image.dicom_id}.jpg"

"""BRAX (Reis et al. 2022): 40,967 images of a Brazilian hospital, 14 labels from reports."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.chexpert.chexpert_dataset_builder import (
    CHEXPERT_LABELS,
    FROM_REPORTS,
    parse_labels,
)

# Release 1.1.0's name, and the one of 1.0.0's documentation.
TABLES = ("master_spreadsheet_update.csv", "master_spreadsheet.csv")
IMAGES = "images"
# A public loader cuts this many characters from the end of PngPath.
ODD_ENDING = 7

_AGE = re.compile(r"(\d+(?:\.0)?)(?: or more)?")


class Builder(builder.CxrBuilder):
    """The PNG images; splits are made by patient, since the owner has none."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Download from https://physionet.org/content/brax/ master_spreadsheet_update.csv and "
        "images/ into manual_dir (Anonymized_DICOMs is not needed)."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/brax/"
    LABEL_NAMES: ClassVar = CHEXPERT_LABELS
    TASKS: ClassVar = {"default": Task(as_stored(CHEXPERT_LABELS), **FROM_REPORTS)}
    LICENCE: ClassVar = "PhysioNet Credentialed Health Data License 1.5.0"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    OWNER_COUNTS: ClassVar = {"images": 40_967, "patients": 19_351, "studies": 24_959}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, *TABLES)
        table = csv_table.Table(folders.require(root, *TABLES))
        pngs = folders.files_below(root / IMAGES)
        images = folders.by_key(pngs, (".png",), lambda path: path.relative_to(root).as_posix())
        listed = set()
        columns = ("PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber")
        columns += ("ViewPosition", *CHEXPERT_LABELS)
        for where, fields in table.select(columns):
            name, patient, sex, age, study, projection, *cells = fields
            patient_id = patient_of(name, patient, where)
            # PngPath, cut if only that names a file.
            cut = name[:-ODD_ENDING]
            name = cut if name not in images and cut in images else name
            listed.add(name)
            yield Record(
                split=splits.by_patient(patient_id),
                image_id=re.sub(r"\.png$", "", name, flags=re.IGNORECASE).partition("/")[2],
                patient_id=patient_id,
                image=images.get(name, root / name),
                labels=parse_labels(cells, where),
                study_id=study,
                projection=dicom.standard_projection(projection),
                sex=sex if sex in ("M", "F") else "",
                age=parse_age(age, where),
                row=where,
            )
        yield from folders.not_listed(images, listed, root, f"no row in {table.path.name}")


def patient_of(name: str, patient: str, where: str) -> str:
    """Returns the patient's folder, "id_…", which PatientID must name with or without "id_".

    Raises BuildError: PngPath is not an image of images/, or is of another patient.
    """
    parts = name.split("/")
    if len(parts) < 3 or parts[0] != IMAGES:
        raise BuildError(f"{where}: PngPath is not like images/id_…/Study_…/Series_…/image-….png.")
    if not patient or parts[1].removeprefix("id_") != patient.removeprefix("id_"):
        raise BuildError(
            f"{where}: PatientID does not fit PngPath, whose folder is the patient's. The rows or "
            "columns have been moved against each other."
        )
    return parts[1]


def parse_age(age: str, where: str) -> float:
    """Returns years, of groups of five the lower end; NaN if blank; BuildError for another cell."""
    match = _AGE.fullmatch(age)
    if age and match is None:
        raise BuildError(f"{where}: PatientAge is not like 45 or '85 or more'.")
    return float(match[1]) if match else float("nan")

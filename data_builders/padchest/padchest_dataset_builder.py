"""PadChest (Bustos et al. 2020): 160,861 images with Spanish reports and labels from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import FRONTAL, Task
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.padchest.label_lists import LABEL_NAMES, parse_labels

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth"),
    *("PatientSex_DICOM", "Projection", "Report", "Labels"),
)
OLDEST = 120
# TorchXRayVision's names for PadChest's own, where NIH ChestX-ray14 has the finding too.
NIH_NAMES = {
    **{"Atelectasis": "atelectasis", "Cardiomegaly": "cardiomegaly"},
    **{"Consolidation": "consolidation", "Edema": "pulmonary edema"},
    **{"Effusion": "pleural effusion", "Emphysema": "emphysema", "Fibrosis": "pulmonary fibrosis"},
    **{"Hernia": "hiatal hernia", "Infiltration": "infiltrates", "Mass": "mass"},
    **{"Nodule": "nodule", "Pleural_Thickening": "pleural thickening"},
    **{"Pneumonia": "pneumonia", "Pneumothorax": "pneumothorax"},
}


class Builder(builder.CxrBuilder):
    """The owner's table and PNGs, in the archives' numbered folders or all in one."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        f"After BIMCV's terms (https://bimcv.cipf.es/bimcv-projects/padchest/) put {TABLE} (or "
        ".csv.gz) and the unpacked archives (0/ … 50/, 54/, or all PNGs in one folder) into "
        "manual_dir."
    )
    HOMEPAGE: ClassVar = "https://bimcv.cipf.es/bimcv-projects/padchest/"
    LABEL_NAMES: ClassVar = LABEL_NAMES
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {"default": Task(NIH_NAMES, projections=FRONTAL)}
    LICENCE: ClassVar = "PadChest Dataset Research Use Agreement"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    HAS_REPORTS: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 160861}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        pngs = (path for path in files if path.suffix.lower() == ".png")
        images = folders.unique(pngs, lambda path: path.name)
        names = (TABLE.casefold(), f"{TABLE}.gz".casefold())
        lists = [path for path in files if path.name.casefold() in names]
        if not lists:
            raise BuildError(f"{manual_dir} holds no {TABLE}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        table = csv_table.Table(folders.unique(lists, lambda path: TABLE)[TABLE])
        at = [table.index(column) for column in COLUMNS]
        listed = set()
        for row in table.rows(COLUMNS, prose=("Report",)):
            name, place, date, study, patient, birth, sex, projection, report, labels = (
                row.fields[i] for i in at
            )
            listed.add(name)
            if not patient:
                yield Skipped(row.where, "no PatientID")
                continue
            if "e+" in patient.casefold():
                raise BuildError(
                    f"{row.where}: PatientID was rounded by a spreadsheet, which makes several "
                    "patients one. Use the owner's file as it was downloaded."
                )
            yield Record(
                split=splits.by_patient(patient),
                image_id=name.removesuffix(".png"),
                patient_id=patient,
                image=images.get(name)
                or Path(f"{manual_dir}/{folder_of(place, row.where)}/{name}"),
                labels=_labels(labels, row.where),
                study_id=study,
                projection="" if projection == "UNK" else dicom.standard_projection(projection),
                sex=sex if sex in ("M", "F") else "",
                age=age_at(date, birth),
                report=report,
                row=row.where,
            )
        for name in sorted(images.keys() - listed):
            file = images[name].relative_to(manual_dir).as_posix()
            yield Skipped(file, f"no row in {table.path.name}")


def _labels(cell: str, where: str) -> dict[str, float]:
    labels = parse_labels(cell)
    if labels is None:
        raise BuildError(f"{where}: Labels is no list like ['normal'].")
    return labels


def folder_of(place: str, where: str) -> str:
    """The archive's number from ImageDir, which some copies of the table write as "0.0".

    Raises:
      BuildError: no number.
    """
    number = csv_table.number(place)
    if number is None or not math.isfinite(number):
        raise BuildError(f"{where}: ImageDir is not a number.")
    return str(int(number))


def age_at(date: str, birth: str) -> float:
    """Years between the study's date (YYYYMMDD) and the year of birth ("1930.0"), give or take one;
    NaN where one is missing or the difference is strange."""
    try:
        age = float(date[:4]) - float(birth)
    except ValueError:
        return float("nan")
    return age if 0 <= age <= OLDEST else float("nan")

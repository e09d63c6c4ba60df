"""PadChest (Bustos et al. 2020): 160,861 images with Spanish reports and labels from them."""

import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import FRONTAL, Task
from cxr_jax.io import dicom
from data_builders.base import builder, chexmask, csv_table, folders, splits
from data_builders.base.records import BuildError, Record, Skipped

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
# TorchXRayVision's names for PadChest's own, where NIH ChestX-ray14 has the finding too.
NIH_NAMES = {
    **{"Atelectasis": "atelectasis", "Cardiomegaly": "cardiomegaly"},
    **{"Consolidation": "consolidation", "Edema": "pulmonary edema"},
    **{"Effusion": "pleural effusion", "Emphysema": "emphysema", "Fibrosis": "pulmonary fibrosis"},
    **{"Hernia": "hiatal hernia", "Infiltration": "infiltrates", "Mass": "mass"},
    **{"Nodule": "nodule", "Pleural_Thickening": "pleural thickening"},
    **{"Pneumonia": "pneumonia", "Pneumothorax": "pneumothorax"},
}
# Of the owner's 193 strings those that are frequent or that other datasets label too.
LABEL_NAMES = (
    "normal",
    *("adenopathy", "air trapping", "alveolar pattern", "aortic atheromatosis"),
    *("aortic elongation", "apical pleural thickening", "atelectasis", "bronchiectasis"),
    *("calcified granuloma", "callus rib fracture", "cardiomegaly"),
    *("central venous catheter via jugular vein", "central venous catheter via subclavian vein"),
    *("chronic changes", "consolidation", "COPD signs", "costophrenic angle blunting"),
    *("emphysema", "endotracheal tube", "fibrotic band", "flattened diaphragm"),
    *("heart insufficiency", "hemidiaphragm elevation", "hiatal hernia", "hilar congestion"),
    *("increased density", "infiltrates", "interstitial pattern", "kyphosis"),
    *("laminar atelectasis", "mass", "nodule", "NSG tube", "pacemaker", "pleural effusion"),
    *("pleural thickening", "pneumonia", "pneumothorax", "pseudonodule", "pulmonary edema"),
    *("pulmonary fibrosis", "pulmonary mass", "rib fracture", "scoliosis", "sternotomy"),
    *("tuberculosis", "tuberculosis sequelae", "vascular hilar enlargement"),
    *("vertebral degenerative changes", "volume loss"),
)
# An image that the owner excludes says nothing, nor does one of which only this is said.
EXCLUDE = "exclude"
NOTHING_SAID = frozenset({"unchanged", "suboptimal study"})

_LIST = re.compile(r"""\[\s*(?:(?:'[^'\\]*'|"[^"\\]*")\s*(?:,\s*|(?=\])))*\]""")
_ENTRY = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_NAMES = {name.casefold(): name for name in LABEL_NAMES}


class Builder(builder.CxrBuilder):
    """The owner's table and PNGs, in the archives' numbered folders or all in one."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        f"After BIMCV's terms (https://bimcv.cipf.es/bimcv-projects/padchest/) put {TABLE} (or "
        ".csv.gz) and the unpacked archives (0/ … 50/, 54/, or all PNGs in one folder) into "
        "manual_dir."
    )
    HOMEPAGE: ClassVar = "https://bimcv.cipf.es/bimcv-projects/padchest/"
    LABEL_NAMES: ClassVar = LABEL_NAMES
    TASKS: ClassVar = {"default": Task(NIH_NAMES, projections=FRONTAL)}
    LICENCE: ClassVar = "PadChest Dataset Research Use Agreement"
    CHEXMASK: ClassVar = "ImageID"
    OPTIONS: ClassVar = chexmask.OPTION
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    HAS_REPORTS: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 160861}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        images = folders.by_key(files, (".png",), lambda path: path.name)
        names = (TABLE.casefold(), f"{TABLE}.gz".casefold())
        lists = [path for path in files if path.name.casefold() in names]
        if not lists:
            raise self.nothing(manual_dir, f"no {TABLE}")
        table = csv_table.Table(folders.unique(lists, lambda path: TABLE)[TABLE])
        columns = ("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth")
        columns += ("PatientSex_DICOM", "Projection", "Report", "Labels")
        listed = set()
        for where, fields in table.select(columns, prose=("Report",)):
            name, place, date, study, patient, birth, sex, projection, report, labels = fields
            listed.add(name)
            if not patient:
                yield Skipped(where, "no PatientID")
                continue
            csv_table.refuse_rounded(patient, "PatientID", where)
            folder = folder_of(place, where)
            # From a birth in "1930.0" to YYYYMMDD, give or take one.
            years = (csv_table.number(date[:4]) or math.nan) - (csv_table.number(birth) or math.nan)
            yield Record(
                split=splits.by_patient(patient),
                image_id=name.removesuffix(".png"),
                patient_id=patient,
                image=images.get(name) or Path(f"{manual_dir}/{folder}/{name}"),
                labels=parse_labels(labels, where),
                study_id=study,
                projection="" if projection == "UNK" else dicom.standard_projection(projection),
                sex=sex if sex in ("M", "F") else "",
                age=years,
                report=report,
                row=where,
            )
        yield from folders.not_listed(images, listed, manual_dir, f"no row in {table.path.name}")


def parse_labels(cell: str, where: str) -> dict[str, float]:
    """Maps LABEL_NAMES to 1.0 or 0.0, or to NaN if nothing is said; BuildError if it is no list."""
    if cell and not _LIST.fullmatch(cell):
        raise BuildError(f"{where}: Labels is not a list like ['normal'].")
    return _labels(cell)


@functools.cache  # the 160,861 cells repeat themselves; equal ones share a dict
def _labels(cell: str) -> dict[str, float]:
    entries = (single or double for single, double in _ENTRY.findall(cell))
    said = {" ".join(entry.split()).casefold() for entry in entries} - {""}
    if EXCLUDE in said or said <= NOTHING_SAID:
        return dict.fromkeys(LABEL_NAMES, float("nan"))
    labels = dict.fromkeys(LABEL_NAMES, 0.0)
    labels.update((_NAMES[entry], 1.0) for entry in said & _NAMES.keys())
    return labels


def folder_of(place: str, where: str) -> str:
    """Returns the archive's number from ImageDir, which some copies of the table write as "0.0"."""
    (number,) = csv_table.numbers([place], "ImageDir", where)
    if not math.isfinite(number):
        raise BuildError(f"{where}: ImageDir is not a number.")
    return str(int(number))

"""NIH ChestX-ray14 (Wang et al. 2017): 112,120 frontal films, 14 findings from reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from cxr_jax.data.labels import NIH_FINDINGS
from data_builders import cxr_builder, dicom, folders, splits, tables
from data_builders.records import Box, BuildError, Record, Skipped

NO_FINDING = "No Finding"
# The box list calls one finding by another name.
BOX_NAMES = {"Infiltrate": "Infiltration"}
# Boxes are in pixels of the released 1024 x 1024 films, whatever size a copy has.
BOX_SIDE = 1024
VALIDATION_SHARE = 1 / 8
OLDEST = 120.0

# Of the complete dataset; positives counted in Data_Entry_2017_v2020.csv.
OWNER_COUNTS = {
    **{"images": 112_120, "patients": 30_805},
    **{"train+validation images": 86_524, "test images": 25_596},
    **{"Atelectasis": 11_559, "Cardiomegaly": 2_776, "Effusion": 13_317, "Infiltration": 19_894},
    **{"Mass": 5_782, "Nodule": 6_331, "Pneumonia": 1_431, "Pneumothorax": 5_302},
    **{"Consolidation": 4_667, "Edema": 2_303, "Emphysema": 2_516, "Fibrosis": 1_686},
    **{"Pleural_Thickening": 3_385, "Hernia": 227, "No Finding": 60_361},
}

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


class Builder(cxr_builder.CxrBuilder):
    """NIH's or Kaggle's folder; the owner's lists split it by patient."""

    VERSION: ClassVar = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = cxr_builder.resolution_configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Download from https://nihcc.app.box.com/v/ChestXray-NIHCC (or Kaggle's nih-chest-xrays/"
        "data) Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt, "
        "BBox_List_2017.csv (optional) and the images, unpacked to images/ or to images_001/"
        "images/ … images_012/images/, into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    LABEL_NAMES: ClassVar = (*NIH_FINDINGS, NO_FINDING)
    TASK: ClassVar = "multilabel"
    LICENCE: ClassVar = "open; NIH asks to be cited and linked to"
    SPLIT_RULE: ClassVar = (
        "The owner's test_list.txt; one eighth of the patients of the owner's train_val_list.txt, "
        "by a fixed hash of the patient, are validation."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = OWNER_COUNTS

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = folders.find_root(manual_dir, TABLES, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        table = tables.Table(folders.require(root, *TABLES))
        parts = read_lists(root)
        boxes = read_boxes(root)
        films = {
            path.name: path
            # Reversed: of two copies of a film the first in sorted order wins.
            for path in reversed(list(folders.files_below(root)))
            if path.suffix.lower() == ".png"
        }
        columns = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age")
        columns += ("Patient Gender", "View Position")
        at = [table.index(column) for column in columns]
        listed = set()
        known: dict[str, dict[str, float]] = {}  # rows with the same findings share their labels
        for row in table.rows(columns):
            name, findings, follow_up, patient, age, sex, view = (row.fields[i] for i in at)
            listed.add(name)
            patient = patient_of(name, patient, row.where)
            part = parts.get(name)
            if part is None:
                yield Skipped(name, f"in neither {' nor '.join(LISTS.values())}")
                continue
            if findings not in known:
                known[findings] = parse_findings(findings, row.where)
            yield Record(
                split=splits.carve_validation(patient, VALIDATION_SHARE)
                if part == "train"
                else part,
                image_id=name.removesuffix(".png"),
                patient_id=patient,
                film=films.get(name, root / "images" / name),
                labels=known[findings],
                study_id=f"{patient}/{follow_up}",
                view=view,
                sex=sex if sex in ("M", "F") else "",
                age=parse_age(age),
                boxes=boxes.get(name, ()),
                row=row.where,
            )
        for name in sorted(films.keys() - listed):
            yield Skipped(films[name].relative_to(root).as_posix(), f"no row in {table.path.name}")


def read_lists(root: Path) -> dict[str, str]:
    """File name -> the owner's part, "train" or "test".

    Raises:
      BuildError: a list is missing, or a film is in both.
    """
    parts: dict[str, str] = {}
    for part, list_name in LISTS.items():
        path = folders.require(root, list_name)
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name = line.strip()
            if name and parts.setdefault(name, part) != part:
                raise BuildError(
                    f"{name} ({list_name}, line {number}) is in both lists of {root}; restore "
                    "the owner's files."
                )
    return parts


def patient_of(name: str, patient: str, where: str) -> str:
    """The patient's number without leading zeros; the file's name must begin with it.

    Raises:
      BuildError: the name belongs to another patient, as when a column has slid.
    """
    prefix = name.split("_")[0]
    if not (patient.isdigit() and prefix.isdigit() and int(prefix) == int(patient)):
        raise BuildError(
            f"{where}: Patient ID {patient!r} does not fit Image Index {name!r}, whose name "
            "begins with the patient. The rows or columns have been moved against each other."
        )
    return str(int(patient))


def parse_findings(findings: str, where: str) -> dict[str, float]:
    """Finding Labels ("Edema|Effusion") as 1.0 or 0.0 for each label.

    Raises:
      BuildError: a finding outside the vocabulary, or "No Finding" beside another.
    """
    names = findings.split("|")
    for name in names:
        if name not in NIH_FINDINGS and name != NO_FINDING:
            raise BuildError(
                f"{where}: Finding Labels holds {name!r}, which is none of "
                f"{', '.join((*NIH_FINDINGS, NO_FINDING))}."
            )
    if NO_FINDING in names and len(names) > 1:
        raise BuildError(f"{where}: Finding Labels {findings!r} contradicts itself.")
    return {name: float(name in names) for name in (*NIH_FINDINGS, NO_FINDING)}


def parse_age(age: str) -> float:
    """Years, from "58" or the older "058Y"; NaN above 120, where the owner's file has slips."""
    years = dicom.years(age)
    return years if years <= OLDEST else float("nan")


def read_boxes(root: Path) -> dict[str, tuple[Box, ...]]:
    """File name -> boxes, if BBox_List_2017.csv is there.

    Its header has three fields more than its rows, so fields count by position: name, finding,
    x, y, w, h.

    Raises:
      BuildError: a row with another finding or without four numbers.
    """
    if not any((root / f"BBox_List_2017.csv{end}").exists() for end in ("", ".gz")):
        return {}
    table = tables.Table(folders.require(root, "BBox_List_2017.csv"))
    boxes: dict[str, tuple[Box, ...]] = {}
    for row in table.rows(table.columns[:2]):
        name, finding = row.fields[:2]
        label = BOX_NAMES.get(finding, finding)
        try:
            x, y, width, height = (float(value) / BOX_SIDE for value in row.fields[2:6])
        except ValueError as error:
            raise BuildError(f"{row.where}: expected x, y, w, h after the finding.") from error
        if label not in NIH_FINDINGS:
            raise BuildError(f"{row.where}: the box's finding {finding!r} is unknown.")
        box = Box(label, y0=y, x0=x, y1=y + height, x1=x + width)
        boxes[name] = (*boxes.get(name, ()), box)
    return boxes

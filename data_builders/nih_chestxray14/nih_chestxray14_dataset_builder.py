"""NIH ChestX-ray14 (Wang et al. 2017): 112,120 frontal images, 14 findings from reports."""

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import boxes, builder, chexmask, csv_table, folders, splits
from data_builders.base.boxes import BoxRow
from data_builders.base.records import BuildError, Record, Skipped

NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis"),
    *("Pleural_Thickening", "Hernia"),
)
NO_FINDING = "No Finding"
# The box list calls one finding by another name.
BOX_NAMES = {"Infiltrate": "Infiltration"}
# Boxes are in pixels of the released images, whatever size a copy has.
BOX_SIZE = (1024, 1024)
VALIDATION_SHARE = 1 / 8

# Of the complete dataset; positives counted in Data_Entry_2017_v2020.csv.
OWNER_COUNTS = {
    **{"images": 112_120, "patients": 30_805},
    **{"train+validation images": 86_524, "test images": 25_596},
    **{"Atelectasis": 11_559, "Cardiomegaly": 2_776, "Effusion": 13_317, "Infiltration": 19_894},
    **{"Mass": 5_782, "Nodule": 6_331, "Pneumonia": 1_431, "Pneumothorax": 5_302},
    **{"Consolidation": 4_667, "Edema": 2_303, "Emphysema": 2_516, "Fibrosis": 1_686},
    **{"Pleural_Thickening": 3_385, "Hernia": 227, "No Finding": 60_361},
}

BOXES = "BBox_List_2017.csv"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}


class Builder(builder.CxrBuilder):
    """NIH's or Kaggle's folder; the owner's lists split it by patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Download from https://nihcc.app.box.com/v/ChestXray-NIHCC (or Kaggle's nih-chest-xrays/"
        "data) Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt, "
        "BBox_List_2017.csv (optional) and the images, unpacked to images/ or to images_001/"
        "images/ … images_012/images/, into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    LABEL_NAMES: ClassVar = (*NIH_FINDINGS, NO_FINDING)
    TASKS: ClassVar = {
        "default": Task(as_stored(NIH_FINDINGS)),
        "any_finding": Task({"Any finding": f"not {NO_FINDING}"}),
    }
    LICENCE: ClassVar = "open; NIH asks to be cited and linked to"
    CHEXMASK: ClassVar = "Image Index"
    OPTIONS: ClassVar = chexmask.OPTION
    SPLIT_RULE: ClassVar = (
        "The owner's test_list.txt; one eighth of the patients of the owner's train_val_list.txt, "
        "by a fixed hash of the patient, are validation."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = OWNER_COUNTS

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, *TABLES)
        table = csv_table.Table(folders.require(root, *TABLES))
        parts = read_lists(root)
        box_rows = read_boxes(root)
        placed = collections.defaultdict(list)
        for row in box_rows:
            box = boxes.from_pixels(row.label, row.corners, BOX_SIZE, row.where)
            placed[row.image].append(box)
        images = folders.by_key(folders.files_below(root), (".png",), lambda path: path.name)
        listed: dict[str, str] = {}
        known: dict[str, dict[str, float]] = {}  # rows with the same findings share their labels
        columns = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age")
        for where, fields in table.select((*columns, "Patient Gender", "View Position")):
            name, findings, follow_up, patient, age, sex, projection = fields
            listed[name] = findings
            patient = patient_of(name, patient, where)
            if name not in parts:
                yield Skipped(where, f"in neither {' nor '.join(LISTS.values())}")
                continue
            if findings not in known:
                known[findings] = parse_findings(findings, where)
            yield Record(
                split=splits.carve_validation(patient, VALIDATION_SHARE, parts[name]),
                image_id=name.removesuffix(".png"),
                patient_id=patient,
                image=images.get(name, root / "images" / name),
                labels=known[findings],
                study_id=f"{patient}/{follow_up}",
                projection=dicom.standard_projection(projection),
                sex=sex if sex in ("M", "F") else "",
                age=dicom.years(age),  # "58", or the older "058Y"
                boxes=tuple(placed.get(name, ())),
                row=where,
            )
        yield from folders.not_listed(images, listed, root, f"no row in {table.path.name}")

        def has_finding(row: BoxRow) -> bool | None:
            return row.label in listed[row.image].split("|") if row.image in listed else None

        # In the owner's files all 984 boxes are on listed images that have the finding.
        yield from boxes.check_rows(box_rows, has_finding, BOXES)


def read_lists(root: Path) -> dict[str, str]:
    """Returns file name -> the owner's part, "train" or "test"; BuildError if it is in both."""
    parts: dict[str, str] = {}
    for part, list_name in LISTS.items():
        path = folders.require(root, list_name)
        try:
            text = folders.read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BuildError(f"{path} is not UTF-8 text; restore the owner's file.") from None
        for number, line in enumerate(text.splitlines(), start=1):
            name = line.strip()
            if name and parts.setdefault(name, part) != part:
                raise BuildError(
                    f"{list_name}, line {number}: its image is in both lists of {root}; restore "
                    "the owner's files."
                )
    return parts


def patient_of(name: str, patient: str, where: str) -> str:
    """Returns the patient's number without leading zeros; the file's name must begin with it.

    Raises BuildError: the name belongs to another patient, as when a column has slid.
    """
    prefix, number = name.split("_")[0].lstrip("0"), patient.lstrip("0")
    if not (number.isascii() and number.isdigit() and prefix == number):
        raise BuildError(
            f"{where}: Patient ID does not fit Image Index, whose name begins with the patient. "
            "The rows or columns have been moved against each other."
        )
    return number


def parse_findings(findings: str, where: str) -> dict[str, float]:
    """Reads Finding Labels ("Edema|Effusion") as 1.0 or 0.0; BuildError for another finding."""
    names = findings.split("|")
    for name in names:
        if name not in NIH_FINDINGS and name != NO_FINDING:
            raise BuildError(
                f"{where}: Finding Labels holds one that is none of "
                f"{', '.join((*NIH_FINDINGS, NO_FINDING))}."
            )
    if NO_FINDING in names and len(names) > 1:
        raise BuildError(f"{where}: Finding Labels has {NO_FINDING} beside a finding.")
    return {name: float(name in names) for name in (*NIH_FINDINGS, NO_FINDING)}


def read_boxes(root: Path) -> list[BoxRow]:
    """Returns the rows of BBox_List_2017.csv, if it is there.

    Its header has three fields more than its rows, so fields count by position: name, finding,
    x, y, w, h.

    Raises BuildError: a row with another finding or without four numbers.
    """
    path = folders.optional(root, BOXES)
    if path is None:
        return []
    table = csv_table.Table(path)
    rows = []
    for row in table.rows(("Image Index", "Finding Label")):
        name, finding = row.fields[:2]
        label = BOX_NAMES.get(finding, finding)
        corners = (*row.fields, "")[2:6]  # "" for a fourth that is missing
        x, y, width, height = csv_table.numbers(corners, "x, y, w, h after the finding", row.where)
        if label not in NIH_FINDINGS:
            raise BuildError(f"{row.where}: the box's finding is unknown.")
        rows.append(BoxRow(name, label, (x, y, x + width, y + height), row.where))
    return rows

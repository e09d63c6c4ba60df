"""RSNA Pneumonia Detection Challenge (2018): 26,684 images, lung opacities boxed."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import Task
from cxr_jax.io.json import read_json
from cxr_jax.io.text import MAX_BYTES
from data_builders.base import boxes, builder, csv_table, folders, splits
from data_builders.base.records import Box, BuildError, Record, Skipped

TARGETS = "stage_2_train_labels.csv"
INFO = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
OPACITY = "Lung Opacity"
CLASSES = (OPACITY, "Normal", "No Lung Opacity / Not Normal")
# Boxes are in pixels of the released images.
SIZE = (1024, 1024)

_NIH_IMAGE = re.compile(r"0*([1-9]\d*)_\d+\.png")


class Builder(builder.CxrBuilder):
    """Kaggle's folder; only stage_2_train_images has labels, and is split here by patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Accept the rules of Kaggle's rsna-pneumonia-detection-challenge, download it and unpack "
        f"{TARGETS}, {INFO} (optional) and stage_2_train_images/*.dcm into manual_dir; beside them "
        f"put {MAPPING} of RSNA's page on the challenge, which alone says whose the images are."
    )
    HOMEPAGE: ClassVar = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
    LABEL_NAMES: ClassVar = CLASSES
    TASKS: ClassVar = {"default": Task({OPACITY: OPACITY})}
    PATIENT: ClassVar = "person by RSNA's mapping, else examination"
    # Counted with the mapping of the challenge's first release, at random 70/15/15 splits.
    PATIENT_NOTE: ClassVar = (
        "RSNA's patientId numbers examinations: 25,684 of them are of 11,171 persons, and 67 % of "
        "the test images of a random split show a person of train. Put RSNA's "
        f"{MAPPING} into manual_dir, and the images are split by person."
    )
    PARENT: ClassVar = "nih_chestxray14"
    LICENCE: ClassVar = "the rules of the RSNA challenge"
    SPLIT_RULE: ClassVar = (
        "70 % train, 10 % validation, 20 % test by a fixed hash of the patient (NIH's number by "
        "RSNA's mapping; without it the examination's); the owner's stage-2 test images have no "
        "labels and are not part."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 26_684, OPACITY: 6_012}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, TARGETS)
        findings = read_findings(root)
        persons = read_mapping(root, findings)
        folder = root / "stage_2_train_images"
        images = folders.by_stem(folder, (".dcm", ".dicom"))
        headers = self.read_tags(images, findings)
        for image, finding in findings.items():
            tags = headers[image]
            patient = persons.get(image, image)
            yield Record(
                split=splits.by_patient(patient),
                image_id=image,
                patient_id=patient,
                patient_known=bool(persons),
                image=images.get(image, folder / f"{image}.dcm"),
                labels=finding.labels,
                study_id=tags.study_id,
                projection=tags.projection,
                sex=tags.sex,
                age=tags.age,
                boxes=finding.boxes,
                row=finding.where,
            )
        yield from folders.not_listed(images, findings, root, f"no row in {TARGETS}")


class Finding(NamedTuple):
    """One image in the tables."""

    labels: dict[str, float]  # the classes, 1 or 0; NaN where the table that tells is missing
    boxes: tuple[Box, ...]
    where: str


def read_mapping(root: Path, findings: Mapping[str, Finding]) -> dict[str, str]:
    """Returns patientId -> NIH's number of the person, as NIH's own table has it; {} without one.

    RSNA's list has an object an image: `subset_img_id` is the patientId, `img_id` NIH's file name,
    which begins with the person ("00011683_018.png").

    Raises BuildError: not such a list, an image of two persons, or one that it lacks.
    """
    path = folders.optional(root, MAPPING)
    if path is None:
        return {}
    try:
        pairs = {
            (entry["subset_img_id"], _NIH_IMAGE.fullmatch(entry["img_id"])[1])
            for entry in read_json(path, list, MAX_BYTES)
        }
    except (ValueError, KeyError, TypeError):
        raise BuildError(
            f"{path} is not RSNA's list of objects with img_id and subset_img_id. Get it again."
        ) from None
    persons = dict(pairs)
    if len(persons) < len(pairs):
        raise BuildError(
            f"{path} gives two persons for an image ({len(pairs) - len(persons):,} times). "
            "Restore RSNA's file."
        )
    for image, finding in findings.items():
        if image not in persons:
            raise BuildError(
                f"{finding.where}: its patientId is not in {MAPPING}, which has all of RSNA's. "
                "Restore both files."
            )
    return persons


def read_findings(root: Path) -> dict[str, Finding]:
    """Returns patientId -> its finding, in the table's order; BuildError if rows contradict."""
    classes = read_classes(root)
    table = csv_table.Table(folders.require(root, TARGETS))
    findings: dict[str, Finding] = {}
    columns = ("patientId", "x", "y", "width", "height", "Target")
    for where, (image, *place, target) in table.select(columns):
        positive = csv_table.flags(("Target",), (target,), where)["Target"] == 1
        if any(place) != positive:
            raise BuildError(
                f"{where}: Target does not fit x, y, width, height; an opacity has a box, and only "
                "an opacity. Restore the owner's file."
            )
        found = (opacity(place, where),) if positive else ()
        earlier = findings.get(image)
        if earlier is None:
            findings[image] = Finding(classify(image, positive, classes, where), found, where)
        elif positive and earlier.boxes:
            findings[image] = earlier._replace(boxes=earlier.boxes + found)
        else:
            raise BuildError(
                f"An image without an opacity has one row, but here {earlier.where} and {where}. "
                "Restore the owner's file."
            )
    return findings


def opacity(place: list[str], where: str) -> Box:
    """Returns the box at x, y, width, height; BuildError: these are not four numbers."""
    x, y, width, height = csv_table.numbers(place, "x, y, width, height", where)
    return boxes.from_pixels(OPACITY, (x, y, x + width, y + height), SIZE, where)


def classify(
    image: str, positive: bool, classes: dict[str, str] | None, where: str
) -> dict[str, float]:
    """Maps classes to 1 or 0, without their table to NaN; BuildError if they contradict Target."""
    if classes is None:
        return {name: float(positive) if name == OPACITY else float("nan") for name in CLASSES}
    if image not in classes:
        raise BuildError(f"{where}: its patientId has no row in {INFO}. Restore the owner's files.")
    if (classes[image] == OPACITY) != positive:
        raise BuildError(
            f"{where}: Target does not fit the image's class in {INFO}. Restore the owner's files."
        )
    return {name: float(classes[image] == name) for name in CLASSES}


def read_classes(root: Path) -> dict[str, str] | None:
    """Returns patientId -> class, None without the table; BuildError for another class, or two."""
    path = folders.optional(root, INFO)
    if path is None:
        return None
    classes: dict[str, str] = {}
    for where, (image, name) in csv_table.Table(path).select(("patientId", "class")):
        if name not in CLASSES:
            raise BuildError(f"{where}: class is none of {', '.join(CLASSES)}.")
        if classes.setdefault(image, name) != name:
            raise BuildError(
                f"{where}: the image's class is another one than above. Restore the owner's file."
            )
    return classes

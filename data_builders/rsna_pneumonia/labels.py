"""RSNA's two tables: the boxes of opacities, and each image's class."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from data_builders.base import boxes, csv_table, folders
from data_builders.base.records import Box, BuildError

TARGETS = "stage_2_train_labels.csv"
INFO = "stage_2_detailed_class_info.csv"
OPACITY = "Lung Opacity"
CLASSES = (OPACITY, "Normal", "No Lung Opacity / Not Normal")
# Boxes are in pixels of the released images.
SIZE = (1024, 1024)


class Finding(NamedTuple):
    """What the tables say of an image."""

    labels: dict[str, float]  # the classes, 1 or 0; NaN where the table that tells is missing
    boxes: tuple[Box, ...]
    where: str


def read(root: Path) -> dict[str, Finding]:
    """patientId -> its finding, in the order of stage_2_train_labels.csv.

    Raises:
      BuildError: an image with and without an opacity, a box without an opacity or the reverse, or a
        class that contradicts it.
    """
    classes = read_classes(root)
    table = csv_table.Table(folders.require(root, TARGETS))
    columns = ("patientId", "x", "y", "width", "height", "Target")
    at = [table.index(column) for column in columns]
    findings: dict[str, Finding] = {}
    for row in table.rows(columns):
        image, *place, target = (row.fields[i] for i in at)
        positive = csv_table.flags((columns[-1],), (target,), row.where)["Target"] == 1
        if any(place) != positive:
            raise BuildError(
                f"{row.where}: Target does not fit x, y, width, height; an opacity has a box, and "
                "only an opacity. Restore the owner's file."
            )
        found = (opacity(place, row.where),) if positive else ()
        earlier = findings.get(image)
        if earlier is None:
            findings[image] = Finding(
                classify(image, positive, classes, row.where), found, row.where
            )
        elif positive and earlier.boxes:
            findings[image] = earlier._replace(boxes=earlier.boxes + found)
        else:
            raise BuildError(
                f"An image without an opacity has one row, but here {earlier.where} and {row.where}. "
                "Restore the owner's file."
            )
    return findings


def opacity(place: list[str], where: str) -> Box:
    """The box at x, y, width, height.

    Raises:
      BuildError: these are not four numbers.
    """
    numbers = [csv_table.number(field) for field in place]
    if None in numbers:
        raise BuildError(f"{where}: x, y, width, height are no numbers.")
    x, y, width, height = numbers
    return boxes.from_pixels(OPACITY, (x, y, x + width, y + height), SIZE, where)


def classify(
    image: str, positive: bool, classes: dict[str, str] | None, where: str
) -> dict[str, float]:
    """The image's classes as 1 or 0; without the table of classes only the opacity is known.

    Raises:
      BuildError: the image has no class, or one that contradicts its Target.
    """
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
    """patientId -> class; None if the table of classes is not there.

    Raises:
      BuildError: a class that is none of the three, or two of an image.
    """
    path = folders.optional(root, INFO)
    if path is None:
        return None
    table = csv_table.Table(path)
    columns = ("patientId", "class")
    at = [table.index(column) for column in columns]
    classes: dict[str, str] = {}
    for row in table.rows(columns):
        image, name = (row.fields[i] for i in at)
        if name not in CLASSES:
            raise BuildError(f"{row.where}: class is none of {', '.join(CLASSES)}.")
        if classes.setdefault(image, name) != name:
            raise BuildError(
                f"{row.where}: the image's class is another one than above. Restore the owner's file."
            )
    return classes

"""The two kinds of table that VinDr's datasets have: labels of images, and boxes on them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cxr_jax.io import dicom
from data_builders.base import boxes, csv_table
from data_builders.base.boxes import BoxRow
from data_builders.base.records import Box, BuildError, Skipped

NO_FINDING = "No finding"
SUFFIXES = (".dicom", ".dcm")
# One label is spelled in two ways, by table.
SPELLINGS = ("Other diseases", "Other disease")


class Labelled(NamedTuple):
    """What one reader says of an image: label -> 1 or 0."""

    image: str
    reader: str
    labels: dict[str, float]
    where: str


def read_labels(path: Path, names: Sequence[str], reader_column: str = "") -> Iterator[Labelled]:
    """The rows of image_labels_train.csv or image_labels_test.csv.

    Args:
      names: the labels; of SPELLINGS, either may head the column.
      reader_column: holds the reader's name, which is "" without it.

    Raises:
      BuildError: a missing column, or a label that is neither 1 nor 0.
    """
    table = csv_table.Table(path)
    others = [spelling for spelling in SPELLINGS if spelling in table.columns]
    columns = [others[0] if name in SPELLINGS and others else name for name in names]
    at = [table.index(column) for column in columns]
    image, reader = table.index("image_id"), table.index(reader_column or "image_id")
    for row in table.rows(["image_id", *([reader_column] if reader_column else []), *columns]):
        labels = csv_table.flags(names, [row.fields[i] for i in at], row.where)
        who = row.fields[reader] if reader_column else ""
        yield Labelled(row.fields[image], who, labels, row.where)


def read_places(
    path: Path | None, names: Collection[str] | None = None, reader_column: str = ""
) -> dict[str, tuple[BoxRow, ...]]:
    """image_id -> the boxes of all its readers; empty where there is no table.

    A row whose four corners are blank says that there is nothing to box.

    Args:
      path: annotations_train.csv, annotations_test.csv or Kaggle's train.csv.
      names: the classes that there are; None allows all.
      reader_column: holds the reader's name, which is "" without it.

    Raises:
      BuildError: an unknown class, a corner that is no number, or "No finding" with a box.
    """
    if path is None:
        return {}
    table = csv_table.Table(path)
    columns = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
    at = [table.index(column) for column in columns]
    at_reader = table.index(reader_column) if reader_column else None
    places = defaultdict(list)
    for row in table.rows(columns):
        image, name, *corners = (row.fields[i] for i in at)
        if names is not None:
            name = known(name, names, row.where)
        if not any(corners):
            continue
        if name == NO_FINDING:
            raise BuildError(f"{row.where}: {NO_FINDING!r} has a box. Restore the owner's file.")
        numbers = [csv_table.number(corner) for corner in corners]
        if None in numbers or not math.isfinite(sum(numbers)):
            raise BuildError(f"{row.where}: the box's corners are no numbers.")
        x0, y0, x1, y1 = numbers
        reader = "" if at_reader is None else row.fields[at_reader]
        places[image].append(BoxRow(image, name, (x0, y0, x1, y1), row.where, reader))
    return {image: tuple(found) for image, found in places.items()}


def known(name: str, names: Collection[str], where: str) -> str:
    """A class's name as `names` has it.

    Raises:
      BuildError: it is none of them.
    """
    if name in names:
        return name
    if name in SPELLINGS:
        return next(spelling for spelling in SPELLINGS if spelling in names)
    raise BuildError(f"{where}: class_name is none of {', '.join(names)}.")


def check_places(
    path: Path | None,
    places: Iterable[Sequence[BoxRow]],
    fits: Callable[[BoxRow, Labelled], bool],
    readings: Iterable[Labelled],
) -> Iterator[Skipped]:
    """Compares boxes with what their readers say of the images, as boxes.check_rows does.

    Args:
      path: the table of the boxes; None where there is none.
      places: the boxes, image by image.
      fits: whether a box and its reader's labels agree.

    Raises:
      BuildError: as boxes.check_rows.
    """
    said = {(one.image, one.reader): one for one in readings}
    images = {one.image for one in said.values()}

    def agrees(row: BoxRow) -> bool | None:
        if row.image not in images:
            return None
        one = said.get((row.image, row.reader))
        return one is not None and fits(row, one)

    if path is not None:
        rows = [row for of_image in places for row in of_image]
        yield from boxes.check_rows(rows, agrees, path.name)


def boxes_on(image: dicom.Tags, places: Sequence[BoxRow]) -> tuple[Box, ...]:
    """The boxes as fractions of an image; none if its size is unknown, as of one that is missing."""
    if not (image.height and image.width):
        return ()
    size = image.height, image.width
    return tuple(boxes.from_pixels(row.label, row.corners, size, row.where) for row in places)

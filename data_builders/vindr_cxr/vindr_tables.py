"""VinDr's two kinds of table, which VinDr-PCXR shares: labels of images, and boxes on them."""

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
    """Yields the rows of image_labels_train.csv or image_labels_test.csv.

    Args:
      names: the labels; of SPELLINGS, either may head the column.
      reader_column: holds the reader's name, which is "" without it.

    Raises:
      BuildError: a missing column, or a label that is neither 1 nor 0.
    """
    table = csv_table.Table(path)
    others = [spelling for spelling in SPELLINGS if spelling in table.columns]
    columns = [others[0] if name in SPELLINGS and others else name for name in names]
    for where, fields in table.select(["image_id", reader_column or "image_id", *columns]):
        image, reader, *values = fields
        labels = csv_table.flags(names, values, where)
        yield Labelled(image, reader if reader_column else "", labels, where)


def read_places(
    path: Path | None, names: Collection[str] | None = None, reader_column: str = ""
) -> dict[str, tuple[BoxRow, ...]]:
    """Returns image_id -> the boxes of all its readers; empty where there is no table.

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
    columns = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    places = defaultdict(list)
    for where, fields in csv_table.Table(path).select([*columns, reader_column or "image_id"]):
        image, name, *corners, reader = fields
        if names is not None:
            name = known(name, names, where)
        if not any(corners):
            continue
        if name == NO_FINDING:
            raise BuildError(f"{where}: {NO_FINDING!r} has a box. Restore the owner's file.")
        numbers = [csv_table.number(corner) for corner in corners]
        if None in numbers or not math.isfinite(sum(numbers)):
            raise BuildError(f"{where}: the box's corners are no numbers.")
        reader = reader if reader_column else ""
        places[image].append(BoxRow(image, name, tuple(numbers), where, reader))
    return {image: tuple(found) for image, found in places.items()}


def known(name: str, names: Collection[str], where: str) -> str:
    """Returns a class's name as `names` has it.

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
      fits: returns whether a box and its reader's labels agree.

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
        rows = [row for on_image in places for row in on_image]
        yield from boxes.check_rows(rows, agrees, path.name)


def boxes_on(image: dicom.Tags, places: Sequence[BoxRow]) -> tuple[Box, ...]:
    """Returns the boxes as fractions of an image; none if its size is unknown (a missing image)."""
    if not (image.height and image.width):
        return ()
    size = image.height, image.width
    return tuple(boxes.from_pixels(row.label, row.corners, size, row.where) for row in places)

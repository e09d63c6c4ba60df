"""The lines drawn along tubes, train_annotations.csv, as the boxes around them."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.ExifTags import Base

from data_builders.base import boxes, csv_table, folders, parallel
from data_builders.base.boxes import BoxRow
from data_builders.base.records import Box, BuildError

FILE = "train_annotations.csv"

# What Pillow raises on broken headers, beyond OSError.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error)


class Frame(NamedTuple):
    """How a picture is stored: its height and width, and the EXIF orientation that shows it."""

    size: tuple[int, int]
    orientation: int


def read_lines(root: Path, labels: Collection[str]) -> list[BoxRow]:
    """The corners around each line of train_annotations.csv; none without the file.

    Args:
      labels: the names that a line may have.

    Raises:
      BuildError: a line of another label, or one that is no list of points.
    """
    path = folders.optional(root, FILE)
    if path is None:
        return []
    table = csv_table.Table(path)
    columns = ("StudyInstanceUID", "label", "data")
    at = [table.index(column) for column in columns]
    found = []
    for row in table.rows(columns):
        image, label, data = (row.fields[i] for i in at)
        if label not in labels:
            raise BuildError(f"{row.where}: the line's label is unknown.")
        found.append(BoxRow(image, label, corners(data, row.where), row.where))
    return found


def place(
    lines: Sequence[BoxRow], images: Mapping[str, Path], num_workers: int | None
) -> dict[str, tuple[Box, ...]]:
    """Image -> the boxes around its lines, for images that are there.

    Args:
      images: image -> its JPEG, whose header gives the size that the lines' pixels refer to.

    Raises:
      BuildError: a line with a point that is no number.
    """
    of_image = defaultdict(list)
    for line in lines:
        of_image[line.image].append(line)
    lined = [(image, images[image]) for image in of_image if image in images]
    return {
        image: tuple(as_shown(line, frame) for line in of_image[image])
        for image, frame in parallel.parallel_map(read_frame, lined, num_workers)
        if frame is not None
    }


def corners(data: str, where: str) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a line written as "[[x, y], [x, y], …]".

    Raises:
      BuildError: it is written otherwise, or has no point.
    """
    try:
        points = [(float(x), float(y)) for x, y in json.loads(data)]
    except (TypeError, ValueError, RecursionError):  # which quote
        points = []
    if not points:
        raise BuildError(f"{where}: data is no list of points [[x, y], …].")
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def read_frame(path: Path) -> Frame | None:
    """Size and orientation from a picture's header; None if it has none that can be read."""
    try:
        with Image.open(path) as image:
            return Frame((image.height, image.width), image.getexif().get(Base.Orientation, 1))
    except (*_BROKEN, Image.DecompressionBombError):
        return None


def as_shown(line: BoxRow, frame: Frame) -> Box:
    """The box around a line, whose pixels are the stored ones, on the image as it is shown."""
    stored = boxes.from_pixels(line.label, line.corners, frame.size, line.where)
    ys, xs = (stored.y0, stored.y1), (stored.x0, stored.x1)
    if frame.orientation in (2, 3, 7, 8):
        xs = 1 - xs[1], 1 - xs[0]
    if frame.orientation in (3, 4, 6, 7):
        ys = 1 - ys[1], 1 - ys[0]
    if frame.orientation in (5, 6, 7, 8):
        ys, xs = xs, ys
    return Box(line.label, y0=ys[0], x0=xs[0], y1=ys[1], x1=xs[1])

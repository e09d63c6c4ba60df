"""The lines drawn along tubes, train_annotations.csv, as the boxes around them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from PIL import Image

from data_builders import boxes, folders, reading, tables
from data_builders.records import Box, BuildError

FILE = "train_annotations.csv"


def read_boxes(
    root: Path, labels: Collection[str], films: Mapping[str, Path], num_workers: int | None
) -> dict[str, tuple[Box, ...]]:
    """Film -> the boxes around its lines, for films that are there; empty without the file.

    Args:
      labels: the names that a line may have.
      films: film -> its JPEG, whose header gives the size that the lines' pixels refer to.

    Raises:
      BuildError: a line of another label, or one that is no list of points.
    """
    path = folders.optional(root, FILE)
    if path is None:
        return {}
    table = tables.Table(path)
    columns = ("StudyInstanceUID", "label", "data")
    at = [table.index(column) for column in columns]
    found = defaultdict(list)
    for row in table.rows(columns):
        film, label, data = (row.fields[i] for i in at)
        if label not in labels:
            raise BuildError(f"{row.where}: the line's label {label!r} is unknown.")
        found[film].append((label, corners(data, row.where), row.where))
    annotated = [(film, films[film]) for film in found if film in films]
    return {
        film: tuple(boxes.from_pixels(label, c, size, where) for label, c, where in found[film])
        for film, size in reading.parallel_map(picture_size, annotated, num_workers)
        if size is not None
    }


def corners(data: str, where: str) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a line written as "[[x, y], [x, y], …]".

    Raises:
      BuildError: it is written otherwise, or has no point.
    """
    try:
        xs, ys = zip(*((float(x), float(y)) for x, y in json.loads(data)))
    except (TypeError, ValueError, RecursionError) as error:
        raise BuildError(
            f"{where}: data {data[:60]!r} is no list of points [[x, y], …]."
        ) from error
    return min(xs), min(ys), max(xs), max(ys)


def picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width from a picture's header; None if it has none that can be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None

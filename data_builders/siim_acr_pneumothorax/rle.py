"""train-rle.csv: outlines of pneumothoraces as relative run lengths, read as boxes.

A mask is 1024 x 1024 pixels, numbered down the columns. It is written as pairs of the pixels to
skip since the last run's end and the run's length. Boxes come from the runs' ends: no mask is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_builders.base import boxes, csv_table
from data_builders.base.records import Box, BuildError

# The later table goes first: it has the images of the earlier one and more.
TABLES = ("stage_2_train.csv", "train-rle.csv")
SIDE = 1024


class Outline(NamedTuple):
    """What the table says of an image: a box for each of its rows, none for an image without."""

    boxes: tuple[Box, ...]
    where: str


def read(path: Path, label: str) -> dict[str, Outline]:
    """ImageId -> its outline, in the table's order.

    Raises:
      BuildError: run lengths that cannot be, or an image with and without pneumothorax.
    """
    table = csv_table.Table(path)
    columns = ("ImageId", "EncodedPixels")
    at = [table.index(column) for column in columns]
    outlines: dict[str, Outline] = {}
    for row in table.rows(columns):
        image, runs = (row.fields[i] for i in at)
        found = () if runs == "-1" else (box(label, runs, row.where),)
        earlier = outlines.setdefault(image, Outline(found, row.where))
        if bool(earlier.boxes) != bool(found):
            raise BuildError(
                f"An image has a pneumothorax in one of {earlier.where} and {row.where} and none in "
                "the other. Restore the owner's file."
            )
        if earlier.where != row.where:
            outlines[image] = Outline(earlier.boxes + found, earlier.where)
    return outlines


def box(label: str, runs: str, where: str) -> Box:
    """The smallest box around a mask.

    Raises:
      BuildError: not pairs of whole numbers, an empty mask, or one that leaves the image.
    """
    words = runs.split()
    if not words or len(words) % 2 or not (runs.isascii() and "".join(words).isdigit()):
        raise BuildError(f"{where}: EncodedPixels is neither -1 nor pairs of skip and length.")
    numbers = [int(word[:8]) for word in words]  # eight digits are too many already
    if sum(numbers) > SIDE * SIDE or not any(numbers[1::2]):
        raise BuildError(
            f"{where}: EncodedPixels marks nothing or more than {SIDE} x {SIDE} pixels. Are the "
            "run lengths relative, as the owner's are?"
        )
    skips_and_lengths = np.array(numbers)
    ends = np.cumsum(skips_and_lengths)[1::2]
    lengths = skips_and_lengths[1::2]
    first = (ends - lengths)[lengths > 0]
    last = ends[lengths > 0] - 1
    x0, x1 = first[0] // SIDE, last[-1] // SIDE
    # A run that goes on in the next column touches the image's lower and upper edge.
    wraps = bool((first // SIDE != last // SIDE).any())
    y0, y1 = (0, SIDE - 1) if wraps else ((first % SIDE).min(), (last % SIDE).max())
    corners = (float(x0), float(y0), float(x1 + 1), float(y1 + 1))
    return boxes.from_pixels(label, corners, (SIDE, SIDE), where)

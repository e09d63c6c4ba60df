"""Owners' boxes: pixels to fractions of the image, and checks that lists fit their images."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from data_builders.base.records import Box, BuildError, Skipped

# A list whose rows have slid, or whose images have other ids, nearly always names unknown images
# and agrees with labels by chance only. Below these shares it is the owner's own inconsistency.
MAX_UNKNOWN = 0.5
MAX_CONTRADICTING = 0.2


Corners = tuple[float, float, float, float]


class BoxRow(NamedTuple):
    """A row of an owner's list of boxes: x0, y0, x1, y1 in pixels."""

    image: str
    label: str
    corners: Corners
    where: str
    reader: str = ""


def from_pixels(label: str, corners: Corners, size: tuple[int, int], where: str) -> Box:
    """Converts x0, y0, x1, y1 in pixels to fractions of the image (height, width), clipped to it.

    >>> from_pixels("Mass", (10.0, 20.0, 50.0, 120.0), (100, 200), "boxes.csv, row 2")
    Box(label='Mass', y0=0.2, x0=0.05, y1=1.0, x1=0.25)

    Raises BuildError, naming the row `where`, for corners that are not finite or are swapped.
    """
    x0, y0, x1, y1 = corners
    if not all(map(math.isfinite, corners)) or x1 < x0 or y1 < y0:
        raise BuildError(f"{where}: the corners are not a box's x0, y0, x1, y1 in pixels.")
    height, width = size
    places = (y0 / height, x0 / width, y1 / height, x1 / width)
    return Box(label, *(min(max(place, 0.0), 1.0) for place in places))


def check_rows(
    rows: Sequence[BoxRow], fits: Callable[[BoxRow], bool | None], table: str
) -> Iterator[Skipped]:
    """Yields the rows whose image is unknown, and how many boxes contradict their image's labels.

    Boxes that contradict are kept, since the owner said both.

    Args:
      fits: whether the image has the box's finding among its labels; None if no table lists it.
      table: the list's name, for the messages.

    Raises BuildError: more than half of the rows name unknown images, or more than a fifth of the
    others contradict their labels: rows or ids have slid.
    """
    answers = [(row, fits(row)) for row in rows]
    unknown = [row for row, fit in answers if fit is None]
    contradicting = [row for row, fit in answers if fit is False]
    if len(unknown) > MAX_UNKNOWN * len(rows):
        raise BuildError(
            f"{len(unknown):,} of the {len(rows):,} boxes of {table} are on images that no table "
            f"lists; the first is {unknown[0].where}. Take all tables from the same download."
        )
    if len(contradicting) > MAX_CONTRADICTING * (len(rows) - len(unknown)):
        first = contradicting[0]
        raise BuildError(
            f"{len(contradicting):,} of the {len(rows):,} boxes of {table} are of findings that "
            f"their images' labels do not have; the first is {first.where}. The rows or columns "
            "have been moved against each other: restore the owner's files."
        )
    for row in unknown:
        yield Skipped(row.where, "a box on an image that is in no table of images")
    if contradicting:
        reason = (
            f"{len(contradicting):,} of its {len(rows):,} boxes are of findings that their images' "
            f"labels do not have, the first in {contradicting[0].where}; kept"
        )
        yield Skipped(table, reason, expected=True)

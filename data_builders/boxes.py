"""Owners' boxes in pixels as fractions of the film."""

from __future__ import annotations

import math

from data_builders.records import Box, BuildError


def from_pixels(
    label: str,
    corners: tuple[float, float, float, float],
    size: tuple[int, int],
    where: str,
) -> Box:
    """A box as fractions of the film, clipped to it.

    Args:
      corners: x0, y0, x1, y1 in pixels.
      size: the film's height and width in the same pixels.
      where: the box's row, for the message.

    Raises:
      BuildError: a corner is not a finite number, or the corners are swapped.
    """
    x0, y0, x1, y1 = corners
    if not all(map(math.isfinite, corners)) or x1 < x0 or y1 < y0:
        raise BuildError(f"{where}: {corners} are no box's x0, y0, x1, y1 in pixels.")
    height, width = size
    return Box(
        label,
        _fraction(y0, height),
        _fraction(x0, width),
        _fraction(y1, height),
        _fraction(x1, width),
    )


def _fraction(place: float, side: int) -> float:
    return min(max(place / side, 0.0), 1.0)

"""Stored pixels to 8-bit grey through a table of all values, not pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Num, UInt8

from cxr_jax.io.image_error import ImageError

# Rows looked up at once: few enough that their indices stay in the processor's cache.
ROWS = 32


# Stored values to greys, each for itself.
Show = Callable[[Num[np.ndarray, " n"]], Num[np.ndarray, " n"]]


def unchanged(values: Num[np.ndarray, " n"]) -> Num[np.ndarray, " n"]:
    return values


def to_uint8(
    stored: Num[np.ndarray, "h w"],
    show: Show = unchanged,
    padding: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """8-bit greys as they are, others stretched from the image's darkest to its brightest.

    Args:
      stored: the image as the file holds it.
      show: what is displayed for stored values, of any range.
      padding: lowest and highest of the stored values that lie outside the image; shown as the
        image's darkest grey.

    Raises:
      ImageError: greys that are not finite.
    """
    values, codes = _coded(stored)
    greys = show(values)
    occurring = _occurring(stored, values, codes, greys, padding)
    if padding is not None:
        outside = (values >= padding[0]) & (values <= padding[1])
        if (image := occurring & ~outside).any():
            greys = np.where(outside, greys[image].min(), greys)
    if greys.dtype != np.uint8:
        on_image = stretched(greys[occurring])
        greys = np.zeros(len(values), np.uint8)
        greys[occurring] = on_image
    image = np.empty(stored.shape, np.uint8)
    for row in range(0, len(image), ROWS):
        np.take(greys, codes[row : row + ROWS], out=image[row : row + ROWS], mode="clip")
    return image


def _coded(stored: Num[np.ndarray, "h w"]) -> tuple[Num[np.ndarray, " n"], Num[np.ndarray, "h w"]]:
    """All values that the image may hold, and each pixel's index among them."""
    if stored.dtype.kind in "ui" and stored.dtype.itemsize <= 2:
        # A value's index is its bit pattern, so that signed numbers need no offset.
        pattern = np.dtype(f"u{stored.dtype.itemsize}")
        patterns = np.arange(np.iinfo(pattern).max + 1).astype(pattern)
        return patterns.view(stored.dtype), stored.view(pattern)
    return np.unique(stored, return_inverse=True)


def _occurring(
    stored: Num[np.ndarray, "h w"],
    values: Num[np.ndarray, " n"],
    codes: Num[np.ndarray, "h w"],
    greys: Num[np.ndarray, " n"],
    padding: tuple[int, int] | None,
) -> Bool[np.ndarray, " n"]:
    """A mask of the values on the image, or of a range with the same darkest and brightest grey."""
    between = (values >= stored.min()) & (values <= stored.max())
    ordered = greys[between][np.argsort(values[between], kind="stable")]
    before, after = ordered[:-1], ordered[1:]
    if padding is None and ((before <= after).all() or (before >= after).all()):
        return between
    found = np.zeros(len(values), bool)
    for row in range(0, len(codes), ROWS):
        found[codes[row : row + ROWS]] = True
    return found


def stretched(greys: Num[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
    """The darkest to 0, the brightest to 255.

    Raises:
      ImageError: greys that are not finite.
    """
    greys = greys.astype(np.float32)
    low, high = float(greys.min()), float(greys.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("pixels that are not finite")
    # Constant images stay constant; they carry nothing to be stretched.
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.round((greys - low) * scale).astype(np.uint8)

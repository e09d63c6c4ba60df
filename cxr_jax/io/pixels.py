"""Windowing and downscaling: stored pixels to 8-bit grey, and to the size that is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer, Num, UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cxr_jax.io.limits import ImageError

# Rows looked up at once: few enough that their indices stay in the processor's cache.
ROWS = 32
# An image is decoded at 1/n if that leaves its shorter side this many times the target. Nearer to
# it, grain stays that the full decode averages away: the more, the less 1/n has averaged.
LEAST = {8: 1.1, 4: 1.3, 2: 1.6}

Box = tuple[float, float, float, float]  # left, upper, right, lower
# Stored values to greys, each for itself.
Show = Callable[[Num[np.ndarray, " n"]], Num[np.ndarray, " n"]]


def to_uint8(
    stored: Num[np.ndarray, "h w"],
    show: Show | None = None,
    padding: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "h w"]:
    """Keeps 8-bit greys and stretches others from the image's darkest to its brightest.

    Values are looked up in a table of all that the image may hold, not computed pixel by pixel.

    Args:
      stored: the image as the file holds it.
      show: what is displayed for stored values, of any range; None: the values themselves.
      padding: lowest and highest of the stored values that lie outside the image; shown as the
        image's darkest grey.

    Raises:
      ImageError: greys that are not finite.

    >>> to_uint8(np.array([[1000, 2000], [1500, 3000]], np.uint16))
    array([[  0, 128],
           [ 64, 255]], dtype=uint8)
    """
    if show is None and padding is None and stored.dtype == np.uint8:
        return stored
    values, codes = _coded(stored)
    greys = values if show is None else show(values)
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
    """Returns all values that the image may hold, and each pixel's index among them."""
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
    """Masks the values on the image, or of a range with the same darkest and brightest grey."""
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
    """Maps the darkest grey to 0 and the brightest to 255; ImageError if any is not finite.

    >>> stretched(np.array([-1.0, 0.0, 1.0]))
    array([  0, 128, 255], dtype=uint8)
    """
    greys = greys.astype(np.float32)
    low, high = float(greys.min()), float(greys.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("pixels that are not finite")
    # Constant images stay constant; they carry nothing to be stretched.
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.round((greys - low) * scale).astype(np.uint8)


class Scaled(NamedTuple):
    """An image at a fraction of its size."""

    pixels: Integer[np.ndarray, "h w"]
    size: tuple[int, int]  # the whole image's width and height
    box: Box  # where the whole image lies on `pixels`; a last block may reach beyond it


def unscaled(pixels: UInt8[np.ndarray, "h w"]) -> Scaled:
    """Wraps an image at its own size."""
    height, width = pixels.shape
    return Scaled(pixels, (width, height), (0.0, 0.0, width, height))


def reduction(size: tuple[int, int], shorter_side: int | None) -> int:
    """Returns 8, 4, 2 or 1: by how much an image may be reduced before `shrink` finishes the work.

    >>> reduction((2500, 2048), 256), reduction((400, 300), 256), reduction((2500, 2048), None)
    (4, 1, 1)
    """
    if shorter_side is None:
        return 1
    return next((n for n, least in LEAST.items() if min(size) >= least * n * shorter_side), 1)


def draft_jpeg(image: JpegImageFile, n: int) -> Box:
    """Sets a JPEG, before its pixels are read, to 1/n of its size and to luminance alone.

    Returns where the whole image will lie on what is decoded.
    """
    width, height = image.size
    drafted = image.draft("L", (width // n, height // n))
    return tuple(map(float, drafted[1] if drafted else (0, 0, width, height)))


def shrink(image: Scaled, shorter_side: int | None) -> UInt8[np.ndarray, "h2 w2"]:
    """Makes the shorter side `shorter_side` pixels, antialiased, aspect kept; never enlarges."""
    width, height = image.size
    if shorter_side is None or min(image.size) <= shorter_side:
        return image.pixels
    scale = shorter_side / min(image.size)
    target = (max(shorter_side, round(width * scale)), max(shorter_side, round(height * scale)))
    # Averages of whole blocks first: a fifth of the time, 0.05 grey levels from the bicubic alone.
    small = Image.fromarray(image.pixels).resize(
        target, Image.Resampling.BICUBIC, box=image.box, reducing_gap=2.0
    )
    return np.asarray(small)

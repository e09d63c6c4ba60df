"""Downscaling and cropping, the one way for all that reads images; and other values to 8 bits."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from cxr_jax.io.limits import ImageError

# Rows looked up at once: few enough that their indices stay in the processor's cache.
ROWS = 32

Box = tuple[float, float, float, float]  # left, upper, right, lower


class Greys(NamedTuple):
    """The greys that are displayed for stored values."""

    values: Num[np.ndarray, " n"]  # NaN: outside the image, shown as its darkest grey
    fixed: bool  # they are 0 to 255 already; else the darkest becomes 0, the brightest 255


def to_uint8(
    stored: Num[np.ndarray, "h w"], show: Callable[[Num[np.ndarray, " n"]], Greys] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Keeps 8-bit greys and stretches others from the image's darkest to its brightest.

    Values are looked up in a table of all that the image may hold, not computed pixel by pixel.

    Args:
      stored: the image as the file holds it.
      show: what is displayed for stored values; None: the values themselves.

    Raises:
      ImageError: greys that are not finite, or none on the image.

    >>> to_uint8(np.array([[1000, 2000], [1500, 3000]], np.uint16))
    array([[  0, 128],
           [ 64, 255]], dtype=uint8)
    """
    if show is None and stored.dtype == np.uint8:
        return stored
    values, codes = _coded(stored)
    if show is None and not np.isfinite(values[[0, -1]]).all():
        raise ImageError("pixels that are not finite")
    greys, fixed = (values, False) if show is None else show(values)
    found = np.zeros(len(values), bool)
    for row in range(0, len(codes), ROWS):
        found[codes[row : row + ROWS]] = True
    on_image = greys[found & ~np.isnan(greys)].astype(np.float64)
    if not (len(on_image) and np.isfinite(on_image).all()):
        raise ImageError("pixels that are not finite, or all outside the image")
    low, high = float(on_image.min()), float(on_image.max())
    filled = np.where(np.isnan(greys), low, greys).clip(low, high)
    if not fixed:
        # Constant images stay constant; they carry nothing to be stretched.
        filled = (filled - low) * (255 / (high - low) if high > low else 0)
    table = np.round(filled).astype(np.uint8)
    image = np.empty(stored.shape, np.uint8)
    for row in range(0, len(image), ROWS):
        np.take(table, codes[row : row + ROWS], out=image[row : row + ROWS], mode="clip")
    return image


def _coded(stored: Num[np.ndarray, "h w"]) -> tuple[Num[np.ndarray, " n"], Num[np.ndarray, "h w"]]:
    """Returns all values that the image may hold, in order, and each pixel's index among them."""
    if stored.dtype.kind == "u" and stored.dtype.itemsize <= 2:
        return np.arange(np.iinfo(stored.dtype).max + 1).astype(stored.dtype), stored
    return np.unique(stored, return_inverse=True)


def luminance(colours: Num[np.ndarray, "h w 3"]) -> Num[np.ndarray, "h w"]:
    """Returns the luminance of red, green and blue (ITU-R 601, as Pillow has it), of their type.

    >>> luminance(np.array([[[255, 0, 0], [9, 9, 9]]], np.uint8))
    array([[76,  9]], dtype=uint8)
    """
    if colours.dtype == np.uint8:
        return np.asarray(Image.fromarray(colours).convert("L"))
    return np.round(colours @ [0.299, 0.587, 0.114]).astype(colours.dtype)


class Scaled(NamedTuple):
    """An image, or what a JPEG gives at a fraction of its size."""

    pixels: UInt8[np.ndarray, "h w"]
    size: tuple[int, int]  # the whole image's width and height
    box: Box  # where the whole image lies on `pixels`; a last block may reach beyond it


def unscaled(pixels: UInt8[np.ndarray, "h w"]) -> Scaled:
    """Wraps an image at its own size."""
    height, width = pixels.shape
    return Scaled(pixels, (width, height), (0.0, 0.0, float(width), float(height)))


def shrink(image: Scaled, shorter_side: int | None) -> UInt8[np.ndarray, "h2 w2"]:
    """Makes the shorter side `shorter_side` pixels, antialiased, aspect kept; never enlarges."""
    width, height = image.size
    if shorter_side is None or min(image.size) <= shorter_side:
        return image.pixels
    scale = shorter_side / min(image.size)
    target = (max(shorter_side, round(width * scale)), max(shorter_side, round(height * scale)))
    return _resample(image, target, image.box)


def square(image: Scaled, size: int, fit: str = "crop") -> UInt8[np.ndarray, "size size"]:
    """Returns the image as a square of `size` pixels.

    `fit`: "crop", its central square, only cropped if the image has that size; "pad", the whole of
    it between two black borders; "squash", the whole of it, its sides brought to one length.

    >>> square(unscaled(np.array([[0, 7, 7, 0], [0, 7, 7, 0]], np.uint8)), 2)
    array([[7, 7],
           [7, 7]], dtype=uint8)
    """
    width, height = image.size
    if fit == "squash":
        return _resample(image, (size, size), image.box)
    if fit == "pad":
        columns, rows = (max(1, round(side * size / max(image.size))) for side in image.size)
        padded = np.zeros((size, size), np.uint8)
        top, left = (size - rows) // 2, (size - columns) // 2
        whole = _resample(image, (columns, rows), image.box)
        padded[top : top + rows, left : left + columns] = whole
        return padded
    side = min(image.size)
    left, top = (width - side) / 2, (height - side) / 2
    if side == size:
        top, left = int(top), int(left)
        return image.pixels[top : top + side, left : left + side]
    scale = image.box[2] / width
    box = tuple(edge * scale for edge in (left, top, left + side, top + side))
    return _resample(image, (size, size), box)


def _resample(image: Scaled, size: tuple[int, int], box: Box) -> UInt8[np.ndarray, "h w"]:
    """Resamples by the triangle filter, widened by the factor at which the image shrinks."""
    return np.asarray(Image.fromarray(image.pixels).resize(size, Image.Resampling.BILINEAR, box))

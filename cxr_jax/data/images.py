"""Decodes stored images to squares."""

import contextlib
import io
import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from cxr_jax.io import jpeg, pixels
from cxr_jax.io.limits import MAX_PIXELS, ImageError, check_scans

_JPEG = b"\xff\xd8\xff"
_FORMATS = ("PNG", "JPEG")
# What Pillow raises on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError)
_BROKEN += (struct.error, Image.DecompressionBombError)


def decode_square(encoded: bytes, size: int, fit: str = "crop") -> UInt8[np.ndarray, "size size 1"]:
    """Returns a stored grey image as a square, resampled (triangle filter) to `size`.

    Its central square, or what else `fit` says (`pixels.square`). An image whose shorter side is
    `size` is cropped to whole pixels. A larger JPEG is decoded at 1/2 or 1/4 where that stays
    within a grey level, on average, of the full decode (`jpeg.LEAST`).

    Raises ValueError for a damaged one, no PNG or JPEG, or of more pixels than any image.
    """
    if encoded.startswith(_JPEG):
        check_scans(encoded)
        image = jpeg.decode(encoded, size)
    else:
        with _opened(encoded) as opened:
            image = pixels.unscaled(np.asarray(opened.convert("L")))
    return pixels.square(image, size, fit)[..., None]


def stored_size(encoded: bytes) -> tuple[int, int]:
    """Returns height and width of a stored image, from its header; raises as `decode_square`."""
    with _opened(encoded) as image:
        return image.height, image.width


@contextlib.contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """Opens a stored image and checks its size; whatever is wrong with it is a ValueError."""
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            _check_size(image.height, image.width)
            yield image
    except ImageError:
        raise
    except _BROKEN as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} of any image")


def to_square(
    boxes: Float[np.ndarray, "n 4"], height: int, width: int, fit: str = "crop"
) -> Float[np.ndarray, "n 4"]:
    """Returns boxes (y0, x0, y1, x1) as fractions of the square that a stored image becomes.

    What `decode_square` cuts off is outside [0, 1] afterwards.

    >>> to_square(np.array([[0.0, 0.25, 1.0, 0.5]]), height=100, width=200)
    array([[0. , 0. , 1. , 0.5]])

    `boxes` are in fractions of the stored image, whose sides are `height` and `width` pixels.
    """
    sides = np.array([height, width, height, width])
    side = {"crop": sides.min(), "pad": sides.max(), "squash": sides}[fit]
    return (boxes * sides - (sides - side) / 2) / side

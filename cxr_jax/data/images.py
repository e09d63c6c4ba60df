"""Decodes stored images to squares: shorter side to `size`, centre crop."""

import contextlib
import io
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8
from PIL import Image

from cxr_jax.io.limits import MAX_PIXELS, ImageError, check_scans

_JPEG = b"\xff\xd8\xff"
_FORMATS = ("PNG", "JPEG")
# What Pillow raises on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError)
_BROKEN += (struct.error, Image.DecompressionBombError)


def decode_square(encoded: bytes, size: int) -> UInt8[np.ndarray, "size size 1"]:
    """Returns the central square of a stored grey image, resampled (triangle filter) to `size`.

    An image whose shorter side is `size` is cropped, to whole pixels. A JPEG is decoded at the
    largest DCT reduction (1/2, 1/4, 1/8) that leaves at least `size`: a third less time at 224 px,
    far less for larger images, within 1 grey level on average.

    Raises ValueError for a damaged one, no PNG or JPEG, or of more pixels than any image.
    """
    pixels, height, width, reduction = _decode(encoded, size)
    side = min(height, width)
    if side == size:
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top : top + side, left : left + side, None]
    # In the image's own pixels: a reduced image is rounded up to whole ones.
    top, left = (height - side) / 2, (width - side) / 2
    box = tuple(edge / reduction for edge in (left, top, left + side, top + side))
    square = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square)[..., None]


def _decode(encoded: bytes, least: int) -> tuple[UInt8[np.ndarray, "i j"], int, int, int]:
    """Returns pixels, the stored height and width, and the reduction that keeps `least` a side."""
    if encoded.startswith(_JPEG):
        check_scans(encoded)
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
            _check_size(height, width)
            reduction = max(
                by for by in (1, 2, 4, 8) if by == 1 or min(height, width) >= by * least
            )
            shape = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
            pixels = simplejpeg.decode_jpeg(encoded, "GRAY", **shape)[..., 0]
            return pixels, height, width, reduction
        except ImageError:
            raise
        except ValueError:
            pass  # of four colours, or damaged: Pillow reads it or says why not
    with _opened(encoded) as image:
        return np.asarray(image.convert("L")), image.height, image.width, 1


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


def to_square(boxes: Float[np.ndarray, "n 4"], height: int, width: int) -> Float[np.ndarray, "n 4"]:
    """Returns boxes (y0, x0, y1, x1) as fractions of the central square of a stored image.

    What `decode_square` cuts off is outside [0, 1] afterwards.

    >>> to_square(np.array([[0.0, 0.25, 1.0, 0.5]]), height=100, width=200)
    array([[0. , 0. , 1. , 0.5]])

    `boxes` are in fractions of the stored image, whose sides are `height` and `width` pixels.
    """
    sides = np.array([height, width, height, width])
    return (boxes * sides - (sides - sides.min()) / 2) / sides.min()

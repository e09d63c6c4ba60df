"""Stored image bytes to fixed squares: decode, shorter side to `size`, centre crop."""

import io

import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8
from PIL import Image

_JPEG = b"\xff\xd8\xff"


def decode_square(encoded: bytes, size: int) -> UInt8[np.ndarray, "size size 1"]:
    """The central square of a stored grey film, resampled (antialiased, triangle filter) to `size`.

    A film whose shorter side is `size` is cropped, to whole pixels. A JPEG is decoded at the
    largest DCT reduction (1/2, 1/4, 1/8) that leaves at least `size`: a third less time at 224 px,
    far less for larger films, within 1 grey level on average.
    """
    pixels, height, width, reduction = _decode(encoded, size)
    side = min(height, width)
    if side == size:
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top : top + side, left : left + side, None]
    # In the film's own pixels: a reduced film is rounded up to whole ones.
    top, left = (height - side) / 2, (width - side) / 2
    box = tuple(edge / reduction for edge in (left, top, left + side, top + side))
    square = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square)[..., None]


def _decode(encoded: bytes, least: int) -> tuple[UInt8[np.ndarray, "i j"], int, int, int]:
    """(pixels, height and width of the stored film, by how much they are reduced).

    A JPEG is reduced as far as it keeps `least` pixels a side.
    """
    if encoded.startswith(_JPEG):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
            reduction = max(
                by for by in (1, 2, 4, 8) if by == 1 or min(height, width) >= by * least
            )
            shape = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
            pixels = simplejpeg.decode_jpeg(encoded, "GRAY", **shape)[..., 0]
            return pixels, height, width, reduction
        except ValueError:
            pass  # of four colours, or damaged: Pillow reads it or says why not
    with Image.open(io.BytesIO(encoded)) as film:
        return np.asarray(film.convert("L")), film.height, film.width, 1


def film_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of a stored film, from its header."""
    with Image.open(io.BytesIO(encoded)) as film:
        return film.height, film.width


def to_square(boxes: Float[np.ndarray, "n 4"], height: int, width: int) -> Float[np.ndarray, "n 4"]:
    """Boxes (y0, x0, y1, x1) from fractions of a stored film to fractions of its central square.

    What `decode_square` cuts off lies outside [0, 1] afterwards.
    """
    sides = np.array([height, width, height, width])
    return (boxes * sides - (sides - sides.min()) / 2) / sides.min()

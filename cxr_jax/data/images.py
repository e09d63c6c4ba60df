"""Decodes stored images to squares."""

import numpy as np
from jaxtyping import Float, UInt8

from cxr_jax.io import pictures, pixels

stored_size = pictures.size_of


def decode_square(encoded: bytes, size: int, fit: str = "crop") -> UInt8[np.ndarray, "size size 1"]:
    """Returns a stored image as a square, resampled (triangle filter) to `size`.

    Its central square, or what else `fit` says (`pixels.square`). An image whose shorter side is
    `size` is cropped to whole pixels. A larger JPEG is decoded at 1/2 or 1/4 where that stays
    within a grey level, on average, of the full decode (`pictures.LEAST`). Raises as
    `pictures.decode`.
    """
    return pixels.square(pictures.decode(encoded, size), size, fit)[..., None]


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

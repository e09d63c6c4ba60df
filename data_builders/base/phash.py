"""A 64-bit perceptual hash: near-duplicate images differ in few bits."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image


def phash(image: UInt8[np.ndarray, "h w 1"]) -> str:
    """Hashes an image to 16 hex digits, most significant bit first (row 0, column 0).

    The image is averaged down to 32 x 32, cosine-transformed, and each of the 8 x 8 lowest
    frequencies gives a bit: above the median of the 64 or not (Zauner 2010, section 3.2.1).
    """
    small = Image.fromarray(image[..., 0]).resize((32, 32), Image.Resampling.BOX)
    basis = _dct_basis()
    low = basis @ np.asarray(small, np.float64) @ basis.T
    bits = (low > np.median(low)).ravel()
    return np.packbits(bits).tobytes().hex()


@functools.cache
def _dct_basis() -> Float64[np.ndarray, "8 32"]:
    """The first 8 rows of the orthonormal DCT-II of length 32."""
    frequency, position = np.mgrid[:8, :32]
    basis = np.cos(np.pi * frequency * (2 * position + 1) / 64) * np.sqrt(2 / 32)
    basis[0] /= np.sqrt(2)
    return basis

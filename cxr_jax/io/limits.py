"""Limits of what a file may claim, checked before anything is allocated for it.

A process that reads images takes at most some 2 GB for the worst file that stays within them.
"""

import io
import os
import tokenize
from pathlib import Path

import numpy as np

# An image has at most some 5,000 x 5,000 pixels; beyond this a header is broken or hostile.
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
# JPEG, in which images are stored, has no longer sides.
MAX_SIDE = 65_500
# A file, and a DICOM image's pixels as they are stored.
MAX_BYTES = 400_000_000
MAX_STORED_BYTES = 200_000_000
# JPEG and DICOM: a coded block of 8 x 8 pixels takes a bit or more of a file, even if it is blank.
MAX_PIXELS_A_BYTE = 1024
# PNG: deflate unfolds a byte to at most 1,032, each of which may hold 8 pixels.
MAX_PNG_PIXELS_A_BYTE = 8 * 1032
# Progressive images have some ten; every one costs another pass over all pixels.
MAX_SCANS = 100

_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What NumPy raises on a header, which it parses as Python.
_NOT_NPY = (
    *(ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError),
    *(OverflowError, tokenize.TokenError),
)


class ImageError(ValueError):
    """An image cannot be read; the message is one sentence fit for skipped.csv, without a path."""


def check_size(width: int, height: int) -> None:
    """Raises ImageError for a side below 16 or above 65,500 pixels, or over 100 million in all."""
    sides = sorted((width, height))
    if sides[0] < MIN_SIDE or sides[1] > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"an absurd size of {width} x {height} pixels (sides from {MIN_SIDE} to "
            f"{MAX_SIDE:,}, area up to {MAX_PIXELS:,})"
        )


def check_coded(width: int, height: int, num_bytes: int, most: int = MAX_PIXELS_A_BYTE) -> None:
    """Raises ImageError for more than `most` pixels a byte: a file that was cut off, or a bomb."""
    if width * height > most * num_bytes:
        raise ImageError(
            f"{width} x {height} pixels in {num_bytes:,} bytes, fewer than one for "
            f"{most:,} pixels: cut off, or made to exhaust memory"
        )


def check_scans(jpeg: bytes) -> None:
    """Raises ImageError for a JPEG of over 100 scans, which would take minutes to decode."""
    if (scans := jpeg.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageError(f"a JPEG of {scans:,} scans, more than {MAX_SCANS}: made to take forever")


class BoundedFile(io.BufferedReader):
    """A file whose `read` allocates for what the file holds, not for the length that is asked for.

    Python's own files make room for all that is asked for before they look how much there is.
    Raises ImageError if it is longer than any image, OSError if it cannot be opened.
    """

    def __init__(self, path: Path):
        super().__init__(io.FileIO(os.fspath(path)))
        self.num_bytes = os.fstat(self.fileno()).st_size
        if self.num_bytes > MAX_BYTES:
            self.close()
            raise ImageError(
                f"{self.num_bytes:,} bytes, more than the {MAX_BYTES:,} that any image takes"
            )

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.num_bytes - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_npy_header(stream: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads a .npy file's header: shape, whether in Fortran's order, and type.

    Nothing is allocated or unpickled; the stream is then at the first value.

    Raises:
      ValueError: no header of an array of plain numbers or text.
    """
    try:
        shape, fortran, dtype = _NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    except _NOT_NPY as error:
        raise ValueError("no NumPy array") from error
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which would have to be unpickled")
    if any(side < 0 for side in shape):
        raise ValueError(f"an array of the shape {shape}")
    return shape, fortran, dtype

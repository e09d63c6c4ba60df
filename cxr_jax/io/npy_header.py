"""The header of a NumPy array in a file of strangers: nothing is allocated, nothing unpickled."""

from __future__ import annotations

import io
import tokenize

import numpy as np

_READ = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What NumPy raises on a header, which it parses as Python.
_NO_HEADER = (
    *(ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError),
    *(OverflowError, tokenize.TokenError),
)


def read_header(stream: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type; the stream then stands at the values.

    Raises:
      ValueError: no header of an array of plain numbers or text.
    """
    try:
        shape, fortran, dtype = _READ[np.lib.format.read_magic(stream)](stream)
    except _NO_HEADER as error:
        raise ValueError("no NumPy array") from error
    if dtype.hasobject:
        raise ValueError("an array of Python objects, which would have to be unpickled")
    if any(side < 0 for side in shape):
        raise ValueError(f"an array of the shape {shape}")
    return shape, fortran, dtype

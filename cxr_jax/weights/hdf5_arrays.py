"""Arrays of HDF5 files, in one piece or in chunks; see hdf5.py, whose numerals these are."""

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from cxr_jax.weights.hdf5 import FILTERS, LAYOUT, UNDEFINED, Bytes, Dataset, leaves

_DEFLATE, _SHUFFLE = 1, 2


def read(data: Bytes, dataset: Dataset) -> np.ndarray:
    """The array; takes its nbytes and a chunk's. Raises ValueError (struct.error, zlib.error)."""
    layout = dataset.messages[LAYOUT][0]
    if layout[1] == 0:  # compact: in the header
        (size,) = struct.unpack_from("<H", layout, 2)
        content = layout[4 : 4 + size]
    elif layout[1] == 1:
        address, size = struct.unpack_from("<QQ", layout, 2)
        content = b"" if address == UNDEFINED else data[address : address + dataset.nbytes]
    else:
        return _chunked(data, dataset, layout)
    if len(content) < dataset.nbytes:
        raise ValueError(f"{dataset.name} announces {dataset.nbytes} bytes and holds fewer")
    count = math.prod(dataset.shape)
    return np.frombuffer(content, dataset.dtype, count).reshape(dataset.shape).copy()


def _chunked(data: Bytes, dataset: Dataset, layout: bytes) -> np.ndarray:
    """An array of chunks (IV.A.2.i, III.A.1)."""
    rank, itemsize = len(dataset.shape), dataset.dtype.itemsize
    if layout[2] != rank + 1 or not rank:
        raise ValueError(f"{dataset.name} is damaged: its chunks")
    (tree,) = struct.unpack_from("<Q", layout, 3)
    *chunk, size = struct.unpack_from(f"<{rank + 1}I", layout, 11)
    length = math.prod(chunk) * itemsize
    if size != itemsize or not 0 < length <= max(dataset.nbytes, 1 << 20):
        raise ValueError(f"{dataset.name} is damaged: its chunks")
    filters = [number for part in dataset.messages.get(FILTERS, ()) for number in _filters(part)]
    if filters not in ([], [_DEFLATE], [_SHUFFLE], [_SHUFFLE, _DEFLATE], [_DEFLATE, _SHUFFLE]):
        raise ValueError(f"{dataset.name} is packed in a way that is not read here")
    array, read = np.empty(dataset.shape, dataset.dtype), set()
    held = leaves(data, tree, 1, 8 + 8 * (rank + 1), dataset.budget)
    for address, key in () if tree == UNDEFINED else held:
        size, masked, *start = struct.unpack_from(f"<II{rank}Q", key)
        dataset.budget.take(size)
        content = data[address : address + size]
        for place in reversed(range(len(filters))):
            if not masked >> place & 1:
                content = _undone(filters[place], content, length, itemsize)
        inside = all(s % c == 0 and s < n for s, c, n in zip(start, chunk, dataset.shape))
        if len(content) != length or not inside or tuple(start) in read:
            raise ValueError(f"{dataset.name} is damaged: a chunk")
        read.add(tuple(start))
        block = np.frombuffer(content, dataset.dtype).reshape(chunk)
        ends = [min(s + c, n) for s, c, n in zip(start, chunk, dataset.shape)]
        kept = tuple(slice(end - s) for s, end in zip(start, ends))
        array[tuple(slice(s, end) for s, end in zip(start, ends))] = block[kept]
    if len(read) < math.prod(-(-n // c) for n, c in zip(dataset.shape, chunk)):
        raise ValueError(f"{dataset.name} announces {dataset.nbytes} bytes and holds some only")
    return array


def _filters(content: bytes) -> Iterator[int]:
    """The numbers of a pipeline's filters in order (IV.A.2.l)."""
    version, count = content[0], content[1]
    at = 8 if version == 1 else 2
    for _ in range(count):
        (number,) = struct.unpack_from("<H", content, at)
        named = version == 1 or number >= 256
        length = struct.unpack_from("<H", content, at + 2)[0] if named else 0
        at += 4 if named else 2
        (values,) = struct.unpack_from("<2xH", content, at)
        at += 4 + length + 4 * values + 4 * (version == 1 and values % 2)
        yield number


def _undone(number: int, content: bytes, length: int, itemsize: int) -> bytes:
    if number == _DEFLATE:
        return zlib.decompressobj().decompress(content, length + 1)
    if len(content) % itemsize:
        raise ValueError("a damaged chunk")
    return np.frombuffer(content, np.uint8).reshape(itemsize, -1).T.tobytes()

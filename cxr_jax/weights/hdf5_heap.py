"""The heaps of texts in an HDF5 file, checked before HDF5 walks them: in a damaged one it turns for
ever. (HDF5 file format specification, III.E: global heap; II.A: superblock.)
"""

import mmap
import struct

_FILE, _HEAP = b"\x89HDF\r\n\x1a\n", b"GCOL\x01"
_HEAD = 16  # bytes of a heap's head, and of an object's


def check(data: bytes | mmap.mmap) -> None:
    """Raises ValueError for a file whose numbers have not 8 bytes, or a heap that has no end."""
    if data[: len(_FILE)] != _FILE:
        raise ValueError("it does not begin as HDF5 does")
    sizes = data[13:15] if data[8:9] < b"\2" else data[9:11]  # of offsets and lengths
    if sizes != b"\x08\x08":
        raise ValueError("its superblock is damaged, or none that Keras writes")
    start = data.find(_HEAP)
    while start >= 0:
        _walk(data, start)
        start = data.find(_HEAP, start + 1)


def _walk(data: bytes | mmap.mmap, start: int) -> None:
    (size,) = struct.unpack_from("<8xQ", data[start : start + _HEAD].ljust(_HEAD, b"\0"))
    at, end = start + _HEAD, start + size
    if end > len(data):
        raise ValueError("a heap of texts goes beyond its end")
    while at + _HEAD <= end:
        number, content = struct.unpack_from("<H6xQ", data, at)
        # Number 0 is free space, whose size has its head in it; the others fill whole 8 bytes.
        step = content if number == 0 else _HEAD + -(-content // 8) * 8
        if not 0 < step <= end - at:
            raise ValueError("a heap of texts is damaged")
        at += step

"""A PNG's chunks, checked before Pillow sees them: it does not look at the checksum of pixels."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

from cxr_jax.io.image_error import ImageError
from cxr_jax.io.image_limits import check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Deflate unfolds a byte to at most as many.
MAX_RATIO = 1032
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PIECE = 1 << 20


class Header(NamedTuple):
    """Of the chunk IHDR; `colour` 0 is grey, 3 a palette."""

    width: int
    height: int
    depth: int
    colour: int


def check(stream: io.BufferedIOBase) -> Header:
    """Reads the chunks of an open PNG to its end.

    Raises:
      ImageError: cut off, a chunk that its checksum does not fit, an absurd size, or more pixels
        than the bytes can unfold to.
    """
    stream.seek(len(SIGNATURE))
    header, coded = None, 0
    while True:
        kind, length = _next(stream)
        if header is None and (kind, length) != (b"IHDR", 13):
            raise ImageError("a PNG that does not begin with its header")
        if kind == b"IHDR":
            content = stream.read(13)
            header = header or _header(content)
            checksum = zlib.crc32(content, zlib.crc32(kind))
        else:
            checksum = _checksum(stream, kind, length)
        if stream.read(4) != struct.pack(">I", checksum):
            raise ImageError(f"a damaged PNG: the checksum of its {_name(kind)} chunk does not fit")
        coded += length if kind == b"IDAT" else 0
        if kind == b"IEND":
            break
    rows = -(-header.width * header.depth * _CHANNELS[header.colour] // 8)
    if rows * header.height > MAX_RATIO * coded:
        raise ImageError(
            f"{header.width} x {header.height} pixels in {coded:,} bytes, which unfold to "
            f"{MAX_RATIO * coded:,} of the {rows * header.height:,} at most: cut off, or made to "
            "exhaust memory"
        )
    return header


def _next(stream: io.BufferedIOBase) -> tuple[bytes, int]:
    head = stream.read(8)
    if len(head) < 8:
        raise ImageError("a PNG that is cut off")
    length, kind = struct.unpack(">I4s", head)
    return kind, length


def _header(content: bytes) -> Header:
    if len(content) < 13:
        raise ImageError("a PNG that is cut off")
    width, height, depth, colour = struct.unpack(">IIBB", content[:10])
    check_size(width, height)
    if colour not in _CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise ImageError(f"a PNG of {depth} bits and colour type {colour}, which there is not")
    return Header(width, height, depth, colour)


def _checksum(stream: io.BufferedIOBase, kind: bytes, length: int) -> int:
    checksum = zlib.crc32(kind)
    while length:
        piece = stream.read(min(length, _PIECE))
        if not piece:
            raise ImageError("a PNG that is cut off")
        checksum = zlib.crc32(piece, checksum)
        length -= len(piece)
    return checksum


def _name(kind: bytes) -> str:
    return kind.decode() if kind.isalpha() else "nameless"

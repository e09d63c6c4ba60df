"""HDF5 as Keras writes it, read in Python: a damaged file makes HDF5's C library crash or turn for
ever, and a hostile one might do worse.

Read are files of the oldest format, which h5py writes unless told otherwise: superblocks 0 and 1,
object headers 1, arrays of numbers in one piece or in chunks, packed by deflate and shuffle or not.
(The HDF Group, HDF5 File Format Specification 3.0; numerals below are its sections.)
"""

import collections
import math
import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

Bytes = bytes | mmap.mmap

UNDEFINED = 0xFFFFFFFFFFFFFFFF
# Numbers of header messages (IV.A.2).
_SPACE, _LINKS, _TYPE, _LINK, _EXTERNAL, LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
FILTERS, _ATTRIBUTE, _CONTINUED, _SYMBOLS = 0xB, 0xC, 0x10, 0x11
# Keras's are shorter by far; groups within groups could make their paths grow without end.
_MAX_PATH = 1000
# Float types by their size, the exponent's place and width, the mantissa's width and the bias.
_FLOATS = {(2, 10, 5, 10, 15): "f2", (4, 23, 8, 23, 127): "f4", (8, 52, 11, 52, 1023): "f8"}


class Budget:
    """How many bytes of structure, names and chunks a file may still give.

    Of a sound file each belongs to one of them. Where places overlap or are referred to over and
    over, the time would grow with the square of the file's size.
    """

    def __init__(self, num_bytes: int):
        self._left = num_bytes

    def take(self, num_bytes: int) -> None:
        """Raises ValueError once more was taken than the file holds."""
        self._left -= num_bytes
        if self._left < 0:
            raise ValueError("parts of it are used over and over: damaged, or made to exhaust time")


class Dataset(NamedTuple):
    """An array in a file.

    Attributes:
      name: its path.
      siblings: how many arrays and groups its group holds.
      label: its group's attribute "name", "" where there is none.
      dtype: "V2" for two opaque bytes.
      budget: the file's; its chunks count too.
    """

    name: str
    siblings: int
    label: str
    shape: tuple[int, ...]
    dtype: np.dtype
    messages: dict[int, list[bytes]]
    budget: Budget

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def datasets(data: Bytes) -> Iterator[Dataset]:
    """All arrays of a file, each group's once.

    Raises ValueError (struct.error too) for damage, links to other places or files, a group that
    stands in it twice, places used over and over, and formats other than the oldest.
    """
    if data[:8] != b"\x89HDF\r\n\x1a\n":
        raise ValueError("it does not begin as HDF5 does")
    version, (base, _, end) = data[8], struct.unpack_from("<QQQ", data, 24 if data[8] == 0 else 28)
    if version > 1 or data[13:15] != b"\x08\x08" or base:
        raise ValueError(
            "of a newer format than Keras writes, or damaged; save it with Keras, or h5py as it is"
        )
    if end > len(data):
        raise ValueError(f"truncated: {len(data):,} of {end:,} bytes")
    (root,) = struct.unpack_from("<Q", data, (56 if version == 0 else 60) + 8)
    budget, heaps = Budget(len(data)), {}
    seen, groups = set(), [("", root)]
    while groups:
        prefix, address = groups.pop()
        if address in seen:
            raise ValueError(f"{prefix} stands in it twice")
        seen.add(address)
        group = _messages(data, address, budget)
        members = list(_members(data, prefix, group, budget))
        label = _label(data, group, heaps, budget)
        for name, header in members:
            if len(prefix) + len(name) > _MAX_PATH:
                raise ValueError(f"a path in it is longer than {_MAX_PATH:,} letters")
            messages = _messages(data, header, budget)
            if LAYOUT not in messages:
                groups.append((f"{prefix}{name}/", header))
                continue
            path = prefix + name
            yield Dataset(path, len(members), label, *_kind(path, messages), messages, budget)


def _messages(data: Bytes, address: int, budget: Budget) -> dict[int, list[bytes]]:
    """The messages of an object's header, by their number (IV.A.1.a)."""
    version, _, _, size = struct.unpack_from("<BxHII", data, address)
    if version != 1:
        raise ValueError("an object of a newer format than Keras writes, or damaged")
    found: dict[int, list[bytes]] = {}
    budget.take(16)
    blocks = collections.deque([(address + 16, size)])
    while blocks:
        at, size = blocks.popleft()
        if at + size > len(data):
            raise ValueError("a damaged object")
        budget.take(size)
        end = at + size
        while at + 8 <= end:
            number, size, flags = struct.unpack_from("<HHB", data, at)
            content = data[at + 8 : at + 8 + size]
            at += 8 + size
            if at > end:
                raise ValueError("a damaged object")
            if flags & 2 and number in (_SPACE, _TYPE, LAYOUT, FILTERS):
                raise ValueError("an array's type is kept elsewhere, which Keras does not do")
            if number == _CONTINUED:
                blocks.append(struct.unpack_from("<QQ", content))
            found.setdefault(number, []).append(content)
    return found


def _members(
    data: Bytes, prefix: str, group: dict[int, list[bytes]], budget: Budget
) -> Iterator[tuple[str, int]]:
    """(name, header's address) of all that a group holds."""
    for content in group.get(_LINK, ()):
        yield _linked(prefix, content)
    for content in group.get(_LINKS, ()):
        (heap,) = struct.unpack_from("<Q", content, 2 + 8 * (content[1] & 1))
        if heap != UNDEFINED:
            raise ValueError(f"{prefix} is a group of a newer format than Keras writes")
    for content in group.get(_SYMBOLS, ()):
        tree, heap = struct.unpack_from("<QQ", content)
        if data[heap : heap + 4] != b"HEAP":
            raise ValueError("a group's names are damaged")
        size, _, names = struct.unpack_from("<QQQ", data, heap + 8)
        for leaf, _ in leaves(data, tree, 0, 8, budget):
            signature, count = struct.unpack_from("<4s2xH", data, leaf)
            if signature != b"SNOD":
                raise ValueError("a group's table is damaged")
            budget.take(8 + 40 * count)
            for place in range(count):
                at, header, kind = struct.unpack_from("<QQI", data, leaf + 8 + 40 * place)
                end = data.find(b"\0", names + at, names + size)
                if at >= size or end < 0:
                    raise ValueError("a group's names are damaged")
                budget.take(end - names - at)
                name = data[names + at : end].decode()
                if kind == 2:
                    raise ValueError(f"{prefix}{name} is a link to another place, not followed")
                yield name, header


def _linked(prefix: str, content: bytes) -> tuple[str, int]:
    """A link message's name and address (IV.A.2.g)."""
    flags = content[1]
    kind = content[2] if flags & 8 else 0
    at = 2 + bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(content[at : at + width], "little")
    name = content[at + width : at + width + length].decode()
    if kind != 0:
        raise ValueError(f"{prefix}{name} is a link to another place, which is not followed")
    return name, *struct.unpack_from("<Q", content, at + width + length)


def leaves(
    data: Bytes, root: int, kind: int, key: int, budget: Budget
) -> Iterator[tuple[int, bytes]]:
    """(address, key before it) of what the leaves of a B-tree point at (III.A.1)."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        signature, of, level, count = struct.unpack_from("<4sBBH", data, node)
        if signature != b"TREE" or of != kind:
            raise ValueError("a tree of it is damaged")
        budget.take(24 + count * (key + 8))
        for place in range(count):
            at = node + 24 + place * (key + 8)
            (child,) = struct.unpack_from("<Q", data, at + key)
            if level:
                waiting.append(child)
            else:
                yield child, data[at : at + key]


def _kind(name: str, messages: dict[int, list[bytes]]) -> tuple[tuple[int, ...], np.dtype]:
    """An array's shape and type."""
    layout = messages[LAYOUT][0]
    if _EXTERNAL in messages or (layout[0] == 4 and layout[1] == 3):
        raise ValueError(f"{name} lies in another file, which is not opened")
    if layout[0] != 3 or layout[1] > 2 or _SPACE not in messages or _TYPE not in messages:
        raise ValueError(f"{name} is of a newer format than Keras writes, or damaged")
    space, stored = messages[_SPACE][0], messages[_TYPE][0]
    version, rank = space[0], space[1]
    if version not in (1, 2) or rank > 32:
        raise ValueError(f"{name} is damaged: its shape")
    if version == 2 and space[3] == 2:
        raise ValueError(f"{name} holds nothing")
    shape = struct.unpack_from(f"<{rank}Q", space, 8 if version == 1 else 4)
    (size,) = struct.unpack_from("<I", stored, 4)
    order, of = "<>"[stored[1] & 1], stored[0] & 15
    if stored[1] & 64:
        raise ValueError(f"{name} is in VAX's byte order")
    if of == 0 and size in (1, 2, 4, 8) and struct.unpack_from("<HH", stored, 8) == (0, 8 * size):
        return shape, np.dtype(f"{order}{'ui'[stored[1] >> 3 & 1]}{size}")
    if of == 1:
        _, bits, place, width, _, mantissa, bias = struct.unpack_from("<HHBBBBI", stored, 8)
        known = _FLOATS.get((size, place, width, mantissa, bias))
        if known and bits == 8 * size:
            return shape, np.dtype(order + known)
    if of == 5 and size == 2:
        return shape, np.dtype("V2")
    raise ValueError(f"{name} holds no numbers of a kind that is read here")


def _label(
    data: Bytes,
    group: dict[int, list[bytes]],
    heaps: dict[int, dict[int, tuple[int, int]]],
    budget: Budget,
) -> str:
    """The text of an attribute "name" (IV.A.2.m); "" where it is no text."""
    for content in group.get(_ATTRIBUTE, ()):
        version, size, of_type, of_space = struct.unpack_from("<BxHHH", content)
        at = 9 if version == 3 else 8
        if content[at : at + size].rstrip(b"\0") != b"name":
            continue
        sizes = (-(-n // 8) * 8 if version == 1 else n for n in (size, of_type, of_space))
        kind = content[at + next(sizes) :]
        value = kind[sum(sizes) :]
        if kind[0] & 15 == 3:  # of a fixed length
            return value[: struct.unpack_from("<I", kind, 4)[0]].rstrip(b"\0").decode()
        if kind[0] & 15 == 9 and kind[1] & 15 == 1:
            length, heap, number = struct.unpack_from("<IQI", value)
            if heap not in heaps:
                heaps[heap] = _heap(data, heap, budget)
            at, size = heaps[heap].get(number, (0, -1))
            if length > size:
                raise ValueError("a heap of texts is damaged")
            budget.take(length)
            return data[at : at + length].decode()
    return ""


def _heap(data: Bytes, heap: int, budget: Budget) -> dict[int, tuple[int, int]]:
    """The objects of a global heap by their number: address and size (III.E)."""
    signature, size = struct.unpack_from("<4s4xQ", data, heap)
    at, end = heap + 16, heap + size
    if signature != b"GCOL" or end > len(data):
        raise ValueError("a heap of texts is damaged")
    found: dict[int, tuple[int, int]] = {}
    while at + 16 <= end:
        budget.take(16)  # its texts count where they are read
        index, content = struct.unpack_from("<H6xQ", data, at)
        if index == 0:  # free space, to the end
            break
        if content > end - at - 16:
            raise ValueError("a heap of texts is damaged")
        found.setdefault(index, (at + 16, content))
        at += 16 + -(-content // 8) * 8
    return found

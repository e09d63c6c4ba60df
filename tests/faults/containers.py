"""Damage inside containers that keep checksums and lengths: what it hits is parsed, not refused."""

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.faults.mutations import TOKENS, mutated, mutated_text

_PNG_KINDS = (
    *(b"tRNS", b"PLTE", b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT"),
    *(b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"IHDR", b"IDAT", b"IEND", b"aaaa", b"AAAA"),
)


def png(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One chunk changed, added, repeated or left out; lengths and CRCs fit."""
    chunks = list(png_chunks(data))
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    match rng.randrange(6):
        case 0:
            chunks[at] = kind, mutated(rng, content, [content])
        case 1:  # the header: width, height, depth, colour, compression, filter, interlace
            fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            which = rng.randrange(len(fields))
            fields[which] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 17, 255, rng.getrandbits(32)))
            fields[2:] = [field & 255 for field in fields[2:]]
            chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *fields)
        case 2:
            content = rng.randbytes(rng.choice((0, 1, 2, 4, 26, 300)))
            chunks.insert(at, (rng.choice(_PNG_KINDS), content))
        case 3:
            chunks.insert(rng.randrange(len(chunks)), (kind, content))
        case 4:
            del chunks[at]
        case 5:  # the pixels, compressed again
            try:
                pixels = zlib.decompress(b"".join(c for k, c in chunks if k == b"IDAT"))
            except zlib.error:
                return mutated(rng, data, others)
            content = zlib.compress(mutated(rng, pixels, [pixels]))
            chunks = [c for c in chunks if c[0] != b"IDAT"]
            chunks.insert(1, (b"IDAT", content))
    return data[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunks(data: bytes):
    """Returns kind and content of every chunk of a sound PNG."""
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def jpeg(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One segment before the pixels changed, added, repeated or left out; its length fits."""
    segments, pixels = _jpeg_segments(data)
    at = rng.randrange(len(segments))
    marker, content = segments[at]
    match rng.randrange(5):
        case 0:
            segments[at] = marker, mutated(rng, content, [content])[:65_000]
        case 1:  # start of frame: depth, height, width, components
            frame = next(i for i, (m, _) in enumerate(segments) if 0xC0 <= m <= 0xC2)
            of_frame = bytearray(segments[frame][1])
            of_frame[rng.randrange(len(of_frame))] = rng.choice((0, 1, 2, 8, 12, 255))
            marker = rng.choice((segments[frame][0], *range(0xC0, 0xD0)))
            segments[frame] = marker, bytes(of_frame)
        case 2:
            segments.insert(at, (rng.randrange(0xC0, 0xFF), rng.randbytes(rng.choice((0, 2, 99)))))
        case 3:
            segments.insert(rng.randrange(len(segments)), (marker, content))
        case 4:
            del segments[at]
    coded = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return b"\xff\xd8" + coded + pixels


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Returns the segments up to the first start of scan with their contents, and all that
    follows."""
    segments, at = [], 2
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        segments.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return segments, data[at:]


# Group, element and what a hostile writer might put there.
_TAGS = (
    *((0x0028, element) for element in (2, 4, 6, 8, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103)),
    *((0x0028, element) for element in (0x120, 0x121, 0x1050, 0x1051, 0x1052, 0x1053, 0x1056)),
    *((0x0028, element) for element in (0x3000, 0x3010, 0x1101, 0x1201, 0x34, 0x30)),
    *((0x0010, element) for element in (0x10, 0x20, 0x30, 0x40, 0x1010)),
    *(
        (0x0008, 5),
        (0x0018, 0x5101),
        (0x0020, 0x000D),
        (0x7FE0, 0x10),
        (0x7FE0, 8),
        (0xFFFE, 0xE000),
    ),
)
_VRS = (
    b"US",
    b"SS",
    b"UL",
    b"IS",
    b"DS",
    b"CS",
    b"LO",
    b"PN",
    b"OW",
    b"OB",
    b"SQ",
    b"UI",
    b"UN",
    b"AS",
)
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"UC", b"UR")
_SYNTAXES = (
    *("1.2", "1.2.1", "1.2.1.99", "1.2.2", "1.2.5", "1.2.4.50", "1.2.4.51", "1.2.4.57", "1.2.4.70"),
    *("1.2.4.80", "1.2.4.81", "1.2.4.90", "1.2.4.91", "1.2.4.92", "1.2.4.100", "1.2.4.201", "9"),
)


def dicom(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One element changed, added, repeated or left out; its length fits, mostly."""
    try:
        elements = list(dicom_elements(data))
    except struct.error:  # not in explicit VR little endian
        return mutated(rng, data, others)
    if (2, 0x10) not in (entry[:2] for entry in elements):
        return mutated(rng, data, others)
    at = rng.randrange(len(elements))
    group, element, vr, value = elements[at]
    match rng.randrange(6):
        case 0:
            elements[at] = group, element, vr, mutated(rng, value, [value])
        case 1:
            elements[at] = group, element, rng.choice(_VRS), value
        case 2:
            tag, vr = rng.choice(_TAGS), rng.choice(_VRS)
            elements.append((*tag, vr, _dicom_value(rng)))
            elements.sort(key=lambda entry: (entry[0] != 2, entry[:2]))
        case 3:  # one of those that decide how pixels are read
            places = [i for i, entry in enumerate(elements) if entry[0] in (0x28, 0x7FE0)]
            at = rng.choice(places or range(len(elements)))
            group, element, vr, value = elements[at]
            value = _dicom_value(rng, len(value)) if group == 0x28 else mutated(rng, value, [value])
            elements[at] = group, element, vr, value
        case 4:
            del elements[at]
        case 5:  # pixels that claim to be coded otherwise
            place = next(i for i, entry in enumerate(elements) if entry[:2] == (2, 0x10))
            syntax = rng.choice(_SYNTAXES).encode()
            uid = b"1.2.840.10008." + syntax
            elements[place] = 2, 0x10, b"UI", uid + b"\0" * (len(uid) % 2)
    return data[:132] + b"".join(_dicom_element(rng, *entry) for entry in elements)


def _dicom_value(rng: random.Random, length: int = 2) -> bytes:
    number = rng.choice((0, 1, 2, 3, 8, 12, 16, 32, 0x7FFF, 0x8000, 0xFFFF))
    texts = (
        b"0",
        b"-1",
        b"1e999",
        b"nan",
        b"1\\2\\3",
        b"999999999999",
        b"A",
        b"",
        b"RGB ",
        b"YBR_FULL",
    )
    return rng.choice((struct.pack("<H", number), rng.randbytes(length), *texts))


def dicom_elements(data: bytes):
    """Returns (group, element, VR, value) of a sound file in explicit VR little endian, flat."""
    at = 132
    while at < len(data):
        group, element, vr = struct.unpack("<HH2s", data[at : at + 6])
        if vr in _LONG:
            (length,) = struct.unpack("<I", data[at + 8 : at + 12])
            start = at + 12
        else:
            (length,) = struct.unpack("<H", data[at + 6 : at + 8])
            start = at + 8
        length = len(data) - start if length == 0xFFFFFFFF else length
        yield group, element, vr, data[start : start + length]
        at = start + length


def _dicom_element(rng: random.Random, group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    undefined = (group, element) == (0x7FE0, 0x10) and value.startswith(b"\xfe\xff\x00\xe0")
    length = 0xFFFFFFFF if undefined else len(value)
    if rng.random() < 0.02:
        length = rng.choice((0, length + 2, 0xFFFE, 0xFFFFFFFE, 0xFFFFFFFF))
    head = struct.pack("<HH2s", group, element, vr)
    if vr in _LONG:
        return head + b"\0\0" + struct.pack("<I", length & 0xFFFFFFFF) + value
    return head + struct.pack("<H", length & 0xFFFF) + value[:0xFFFF]


def zipped(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One member of a zip changed, renamed, added twice or left out, and packed again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [[entry.filename, archive.read(entry)] for entry in archive.infolist()]
    # The pickle and the arrays' headers are where parsing happens.
    small = min(members, key=lambda member: (not member[0].endswith(".pkl"), len(member[1])))
    member = small if rng.random() < 0.4 else rng.choice(members)
    match rng.randrange(6):
        case 0 | 1:
            member[1] = mutated(rng, member[1], [content for _, content in members])
        case 2:
            head = mutated_text(rng, member[1][:256], [member[1]])
            member[1] = head + member[1][256:]
        case 3:
            names = (
                "",
                "../" + member[0],
                "/" + member[0],
                member[0] * 300,
                "a\0b",
                member[0][:-1],
            )
            member[0] = rng.choice(names)
        case 4:
            members.append(list(rng.choice(members)))
        case 5:
            members.remove(member)
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as out:
        for name, content in members:
            out.writestr(zipfile.ZipInfo(name), content, out.compression)
    return stream.getvalue()


def safetensors(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Changes the header as JSON or as text; its length fits."""
    (length,) = struct.unpack("<Q", data[:8])
    header, content = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.5:
        entries = json.loads(header)
        entry = entries[rng.choice([key for key in entries if key != "__metadata__"])]
        numbers = (0, -1, 1, 2**31, 2**32, 2**63, 2**64, 10**30, 0.5, "4", None, [])
        match rng.randrange(4):
            case 0:
                entry["dtype"] = rng.choice(
                    ("F8_E4M3", "BF16", "F64", "U8", "I64", "X", "", 3, None)
                )
            case 1:
                entry["shape"] = [rng.choice(numbers) for _ in range(rng.choice((0, 1, 2, 40)))]
            case 2:
                entry["data_offsets"] = [
                    rng.choice(numbers) for _ in range(rng.choice((0, 1, 2, 2)))
                ]
            case 3:
                entries["__metadata__"] = rng.choice(
                    ({}, {"a": 1}, [], "x", None, {"format": "pt"})
                )
        header = json.dumps(entries).encode()
    else:
        header = mutated_text(rng, header, [header])
    return struct.pack("<Q", len(header)) + header + content


def xml(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Changes a text or attribute, repeats or leaves out an element; still XML, mostly."""
    kind = rng.choice((rb">[^<>]+<", rb'"[^"<>]*"', rb"<(\w+)[^<>]*>[^<>]*</\1>", rb"<[^<>]*/>"))
    found = list(re.finditer(kind, data[60:]))
    if not found:
        return mutated_text(rng, data, others)
    place = rng.choice(found)
    start, end = place.start() + 60, place.end() + 60
    part = data[start:end]
    if part.startswith(b"<"):
        part = rng.choice((b"", part * 2, part * 50, rng.choice(TOKENS)))
    else:
        text = (part[1:-1] + rng.choice(TOKENS), rng.choice(TOKENS), b"", part[1:-1][::-1])
        inside = escape(rng.choice(text).decode("utf-8", "replace"), {'"': "&quot;"})
        part = part[:1] + inside.encode() + part[-1:]
    return data[:start] + part + data[end:]

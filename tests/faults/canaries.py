"""Canaries: made-up identifiers that are planted wherever a hospital could have real ones, and a
search of files for them that looks through compression and encodings."""

import base64
import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SURNAME, GIVEN = "Quillfeather", "Zebedee"
NAME = f"{SURNAME}^{GIVEN}"
BIRTH = "19370228"
ACCESSION = "ACC774193108"
NUMBER = "774193108"  # where a tag holds digits alone
RECORD_NUMBER = "MRN5550199"  # of a patient, with a letter behind it
FREE = "heliotrope walrus"
FINDINGS = "vermilion ocelot"  # in a report's own text, which a dataset of reports keeps
REPORTED = "Brackenridge"  # a name in the text of nine reports
PATIENTS = tuple(f"{RECORD_NUMBER}{letter}" for letter in "ABCDEFGHIJKL")

WORDS = (SURNAME, GIVEN, BIRTH, "1937-02-28", ACCESSION, NUMBER, RECORD_NUMBER, FREE)


def needles(words: tuple[str, ...] = WORDS) -> dict[bytes, str]:
    """Lower-case bytes to look for -> what they are: words as they are, as UTF-16, UTF-32, base64
    and hex, and the unsalted hashes of patients, from which anybody could find the numbers."""
    found: dict[bytes, str] = {}
    for word in words:
        found[word.lower().encode()] = word
        for code in ("utf-16-le", "utf-32-le"):  # NumPy keeps words as the latter
            found[word.lower().encode(code)] = f"{word} ({code})"
        for case in (word, word.lower(), word.upper()):
            found[case.encode().hex().encode()] = f"{word} (hex)"
            for shift in range(3):  # where it starts within three bytes
                coded = base64.b64encode(b"\0" * shift + case.encode())
                # Those of its letters that do not depend on its neighbours.
                inner = coded[-(-8 * shift // 6) : 8 * (shift + len(case)) // 6]
                found[inner.lower()] = f"{word} (base64)"
    for patient in PATIENTS if words is WORDS else ():
        digest = hashlib.sha256(patient.encode()).hexdigest()[:16]
        inner = hashlib.sha256(f"image_folder/p{digest}".encode()).hexdigest()[:16]
        found[digest.encode()] = f"hash of {patient}"
        found[inner.encode()] = f"hash of {patient} as seen_images had it"
    return found


def search(content: bytes, wanted: dict[bytes, str]) -> set[str]:
    """Finds needles in some bytes, whatever their case, and in what these hold compressed."""
    found = set()
    for part in _unfolded(content):
        lower = part.lower()
        found |= {what for needle, what in wanted.items() if needle in lower}
    return found


def search_files(root: Path, wanted: dict[bytes, str]) -> list[str]:
    """ "file: needle" of every file below `root`, names included."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        content = name.encode() + b"\n" + (path.read_bytes() if path.is_file() else b"")
        found += [f"{name}: {what}" for what in sorted(search(content, wanted))]
        if path.suffix == ".parquet":
            values = repr(pq.read_table(path).to_pydict()).encode()
            found += [f"{name} (values): {what}" for what in sorted(search(values, wanted))]
    return found


def _unfolded(content: bytes) -> Iterator[bytes]:
    """Yields the bytes, and those of gzip streams, zip members, zlib and zstd streams within
    them."""
    yield content
    for at in _places(content, b"\x1f\x8b\x08"):
        try:
            yield gzip.GzipFile(fileobj=io.BytesIO(content[at:])).read()
        except (OSError, EOFError, zlib.error):
            continue
    for at in _places(content, b"\x28\xb5\x2f\xfd"):
        try:
            yield pa.input_stream(pa.py_buffer(content[at:]), compression="zstd").read()
        except OSError:
            continue
    if b"PK\x03\x04" in content:
        start = content.index(b"PK\x03\x04")
        try:
            with zipfile.ZipFile(io.BytesIO(content[start:])) as archive:
                for name in archive.namelist():
                    yield archive.read(name)
        except zipfile.BadZipFile:
            pass
    for at in _places(content, b"\x89PNG\r\n\x1a\n"):
        yield from _png_texts(content[at + 8 :])


def _places(content: bytes, magic: bytes) -> Iterator[int]:
    at = content.find(magic)
    while at >= 0:
        yield at
        at = content.find(magic, at + 1)


def _png_texts(content: bytes) -> Iterator[bytes]:
    """Compressed text chunks; plain ones are in the bytes."""
    while len(content) >= 12:
        length, kind = struct.unpack(">I4s", content[:8])
        body, content = content[8 : 8 + length], content[12 + length :]
        for at in range(len(body)) if kind in (b"zTXt", b"iTXt", b"iCCP", b"eXIf") else ():
            try:
                yield zlib.decompress(body[at:])
            except zlib.error:
                continue
        if kind == b"IEND":
            return

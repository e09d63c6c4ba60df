"""DICOM headers: the few tags that a dataset may keep, and one word for each projection."""

import hashlib
import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom import filereader
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxr_jax.io.limits import MAX_BYTES, BoundedFile, ImageError
from cxr_jax.io.text import composed

# Its warnings quote tags, and there would be one for each image.
logging.getLogger("pydicom").setLevel(logging.ERROR)

# What pydicom and the decoders of imagecodecs raise on broken or unusual files.
BROKEN = (
    *(ArithmeticError, AssertionError, AttributeError, BytesLengthException, EOFError),
    *(InvalidDicomError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(struct.error, zlib.error),
)


class Tags(NamedTuple):
    """All that leaves a DICOM header; the ids of patient and study only as hashes."""

    patient_id: str
    study_id: str
    projection: str
    sex: str
    age: float  # years; NaN where unknown, 0 (as de-identification writes) or above 120, a slip
    height: int = 0  # pixels, 0 unknown
    width: int = 0


NO_TAGS = Tags("", "", "", "", float("nan"))
OLDEST = 120.0

_TAG_BYTES = 16 << 20  # of a deflated file, to which its tags are looked for

_WORDS = {
    "PA": {"PA", "P-A", "POSTEROANTERIOR", "POSTERO-ANTERIOR"},
    "AP": {"AP", "A-P", "ANTEROPOSTERIOR", "ANTERO-POSTERIOR", "AP_HORIZONTAL", "AP SUPINE"},
    "FRONTAL": {"FRONTAL"},
    "LATERAL": {"LATERAL", "LAT", "L", "LL", "RL", "LEFT LATERAL", "RIGHT LATERAL"},
}
_STANDARD = {word: projection for projection, words in _WORDS.items() for word in words}
# Other projections and marks that owners use, kept as they are.
_KEPT = frozenset(
    {
        *("", "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "LLD", "RLD", "LLO", "RLO"),
        *("LT-DECUB", "RT-DECUB", "DECUBITUS", "LORDOTIC", "AP LORDOTIC", "OBLIQUE", "LAO", "RAO"),
        *("LPO", "RPO", "XTABLE LATERAL", "SWIMMERS", "COSTAL", "EXCLUDE", "UNK", "OUTLIER"),
    }
)


def is_dicom(path: Path) -> bool:
    """Checks for "DICM" after 128 bytes or, as some exports leave that out, for a first element.

    That is one of group 2 or 8, with a type of two letters or a length below 256.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # a pipe would be waited for
        with open(path, "rb") as stream:
            head = stream.read(132)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return False
    if len(head) < 132 or head[128:] == b"DICM":
        return head[128:] == b"DICM"
    little = head[:2] in (b"\2\0", b"\x08\0") and head[3] == 0
    typed = (little or head[:3] == b"\0\x08\0") and head[4:6].isupper()
    return typed or (little and head[5:8] == b"\0\0\0")


def read_dataset(path: Path, tags_only: bool = False) -> pydicom.Dataset:
    """Reads a file, also one without preamble or transfer syntax; raises ImageError and BROKEN.

    Its file_meta names a transfer syntax, as found from its bytes if the file does not.
    """
    if not is_dicom(path):
        raise InvalidDicomError
    with BoundedFile(path) as file:
        filereader.read_preamble(file, force=True)
        meta = filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group > 2)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _inflated(file.read(), meta, tags_only)
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=tags_only, force=True)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little_endian = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _inflated(deflated: bytes, meta: pydicom.Dataset, tags_only: bool) -> pydicom.Dataset:
    """Unfolds a deflated file (PS3.5 A.5) within bounds: kilobytes may unfold to gigabytes."""
    unfolding = zlib.decompressobj(-zlib.MAX_WBITS)
    content = unfolding.decompress(deflated, _TAG_BYTES if tags_only else MAX_BYTES)
    if not tags_only and unfolding.unconsumed_tail:
        raise ImageError(
            f"a deflated DICOM file of over {MAX_BYTES:,} bytes, more than any image takes"
        )
    if not (unfolding.eof or unfolding.unconsumed_tail):
        raise ImageError("a DICOM file that was cut off")
    stop = (lambda tag, *_: tag.group >= 0x7FE0) if tags_only else None
    dataset = filereader.read_dataset(io.BytesIO(content), False, True, stop_when=stop)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def hashed(identifier: str, prefix: str = "p") -> str:
    """Returns a prefix and 16 hex digits of a record number's SHA-256, so that it does not leave.

    >>> hashed("MRN0042")
    'p6a12db43474fbc05'
    """
    return prefix + hashlib.sha256(composed(identifier).encode("utf-8")).hexdigest()[:16]


def read_tags(path: Path) -> Tags | None:
    """Reads the tags that a dataset may keep; None if the header cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = read_dataset(path, tags_only=True)
            patient, study = text(header, "PatientID"), text(header, "StudyInstanceUID")
            sex = text(header, "PatientSex").upper()
            age = years(text(header, "PatientAge"))
            return Tags(
                patient_id=hashed(patient) if patient else "",
                study_id=hashed(study, "s") if study else "",
                projection=standard_projection(text(header, "ViewPosition")),
                sex=sex if sex in ("M", "F") else "",
                age=age if 0 < age <= OLDEST else float("nan"),
                height=int(header.get("Rows") or 0),
                width=int(header.get("Columns") or 0),
            )
    except (ImageError, *BROKEN):
        return None


def years(age: str) -> float:
    """Converts DICOM's age string to years; NaN if absent or strange.

    >>> years("062Y"), years("018M"), years("62"), years("1961")
    (62.0, 1.5, 62.0, nan)
    """
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", age.strip().upper())
    if match is None:
        return float("nan")
    return int(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]]


def text(dataset: pydicom.Dataset, keyword: str) -> str:
    """Returns a tag's value without blanks around it; "" if it is absent."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def standard_projection(word: str) -> str:
    """Returns one word for an image's projection, whatever its owner calls it.

    "PA", "AP", "FRONTAL" (one of the two), "LATERAL", "" (unknown), another known word, or "OTHER":
    in DICOM the field is free for typing, so that an unknown word could be a name.

    >>> [standard_projection(word) for word in ("postero-anterior", "LL", "ap  axial", "Smith")]
    ['PA', 'LATERAL', 'AP AXIAL', 'OTHER']
    """
    word = " ".join(word.upper().split())
    return _STANDARD.get(word) or (word if word in _KEPT else "OTHER")

"""DICOM headers: the few tags that a dataset may keep, and one word for each projection."""

from __future__ import annotations

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
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxr_jax.io.limits import BoundedFile, ImageError
from cxr_jax.io.text import composed

# Its warnings quote tags, and there would be one for each image.
logging.getLogger("pydicom").setLevel(logging.ERROR)

# What pydicom and the decoders of pylibjpeg raise on broken or unusual files.
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class Tags(NamedTuple):
    """All that leaves a DICOM header; the ids of patient and study only as hashes."""

    patient_id: str
    study_id: str
    projection: str
    sex: str
    age: float  # years; NaN where unknown, or above 120, which is a slip
    height: int = 0  # pixels, 0 unknown
    width: int = 0


NO_TAGS = Tags("", "", "", "", float("nan"))
OLDEST = 120.0

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
    """Checks for DICOM's magic: "DICM" after 128 bytes."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # a pipe would be waited for
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return False


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
            with BoundedFile(path) as file:
                refuse_deflated(file)
                header = pydicom.dcmread(file, stop_before_pixels=True)
            patient, study = text(header, "PatientID"), text(header, "StudyInstanceUID")
            sex = text(header, "PatientSex").upper()
            age = years(text(header, "PatientAge"))
            return Tags(
                patient_id=hashed(patient) if patient else "",
                study_id=hashed(study, "s") if study else "",
                projection=standard_projection(text(header, "ViewPosition")),
                sex=sex if sex in ("M", "F") else "",
                age=age if age <= OLDEST else float("nan"),
                height=int(header.get("Rows") or 0),
                width=int(header.get("Columns") or 0),
            )
    except (ImageError, *BROKEN):
        return None


def refuse_deflated(file: io.BufferedIOBase) -> None:
    """Raises ImageError for a deflated file, a few kilobytes of which may unfold to gigabytes."""
    filereader.read_preamble(file, force=False)
    meta = filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, size: tag.group > 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError("a deflated DICOM file; convert it to another transfer syntax")
    file.seek(0)


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

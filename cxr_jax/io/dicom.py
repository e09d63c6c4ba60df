"""DICOM headers: the few tags that a dataset may keep."""

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

from cxr_jax.io import projections
from cxr_jax.io.image_error import ImageError
from cxr_jax.io.image_limits import BoundedFile

# Its warnings quote tags and would be one an image.
logging.getLogger("pydicom").setLevel(logging.ERROR)

# What pydicom and the pylibjpeg decoders raise on broken or unusual files.
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
    """What leaves a DICOM header; the patient's id only as a hash."""

    patient_id: str
    study_id: str
    view: str
    sex: str
    age: float  # years, NaN unknown or above 120, which is a slip
    height: int = 0  # pixels, 0 unknown
    width: int = 0


NO_TAGS = Tags("", "", "", "", float("nan"))
# Beyond this a header's age is a slip.
OLDEST = 120.0


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's magic: "DICM" after 128 bytes."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # a pipe would be waited for
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return False


def hashed(identifier: str, prefix: str = "p") -> str:
    """A record number as prefix and 16 hex digits of its SHA-256, so that it does not leave."""
    return prefix + hashlib.sha256(identifier.encode("utf-8")).hexdigest()[:16]


def read_tags(path: Path) -> Tags | None:
    """The tags that a dataset may keep; None if the header cannot be read."""
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
                view=projections.standard(text(header, "ViewPosition")),
                sex=sex if sex in ("M", "F") else "",
                age=age if age <= OLDEST else float("nan"),
                height=int(header.get("Rows") or 0),
                width=int(header.get("Columns") or 0),
            )
    except (ImageError, *BROKEN):
        return None


def refuse_deflated(file: io.BufferedIOBase) -> None:
    """Refuses a deflated file, a few kilobytes of which may unfold to gigabytes.

    Raises:
      ImageError: it is one.
    """
    filereader.read_preamble(file, force=False)
    meta = filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, size: tag.group > 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ImageError("a deflated DICOM file; convert it to another transfer syntax")
    file.seek(0)


def years(age: str) -> float:
    """DICOM's age string ("062Y", "018M", "62") in years; NaN if absent or strange."""
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", age.strip().upper())
    if match is None:
        return float("nan")
    return int(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]]


def text(dataset: pydicom.Dataset, keyword: str) -> str:
    """A tag's value without blanks around it; "" if it is absent."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()

"""DICOM films: pixels as displayed, and the few tags that a dataset may keep."""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from jaxtyping import Num
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data_builders.film_error import FilmError

# What pydicom and the pylibjpeg decoders raise on broken or unusual files.
_BROKEN = (
    AttributeError,
    EOFError,
    IndexError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
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
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def hashed(identifier: str, prefix: str = "p") -> str:
    """A record number as prefix and 16 hex digits of its SHA-256, so that it does not leave."""
    return prefix + hashlib.sha256(identifier.encode("utf-8")).hexdigest()[:16]


def read_tags(path: Path) -> Tags | None:
    """The tags that a dataset may keep; None if the header cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True)
            patient, study = _text(header, "PatientID"), _text(header, "StudyInstanceUID")
            sex = _text(header, "PatientSex").upper()
            age = years(_text(header, "PatientAge"))
            return Tags(
                patient_id=hashed(patient) if patient else "",
                study_id=hashed(study, "s") if study else "",
                view=_text(header, "ViewPosition").upper(),
                sex=sex if sex in ("M", "F") else "",
                age=age if age <= OLDEST else float("nan"),
                height=int(header.get("Rows") or 0),
                width=int(header.get("Columns") or 0),
            )
    except _BROKEN:
        return None


def years(age: str) -> float:
    """DICOM's age string ("062Y", "018M", "62") in years; NaN if absent or strange."""
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", age.strip().upper())
    if match is None:
        return float("nan")
    return int(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]]


def read_pixels(path: Path, max_pixels: int, min_side: int) -> Num[np.ndarray, "h w"]:
    """Pixels with rescale and window applied, and white = dense.

    Raises:
      FilmError: no pixels, several frames, an absurd size or a stream that cannot be decoded. The
        message holds no value of a tag other than sizes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path)
            return _displayed(dataset, max_pixels, min_side)
    except FilmError:
        raise
    except _BROKEN as error:
        # The error's own text may quote tags.
        raise FilmError(f"a DICOM file that cannot be decoded ({type(error).__name__})") from error


def _displayed(dataset: pydicom.Dataset, max_pixels: int, min_side: int) -> Num[np.ndarray, "h w"]:
    if "PixelData" not in dataset:
        # pydicom drops an element that ends too early.
        raise FilmError("a DICOM file without pixels, or cut off within them")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise FilmError(f"a DICOM file with {frames} frames, expected one film")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if min(rows, columns) < min_side or rows * columns > max_pixels:
        raise FilmError(f"an absurd size of {columns} x {rows} pixels")
    photometric = _text(dataset, "PhotometricInterpretation")
    stored = dataset.pixel_array
    if stored.ndim == 3:
        # ITU-R 601, as Pillow does for colour PNG and JPEG; pydicom has made YBR into RGB.
        return np.round(stored[..., :3] @ [0.299, 0.587, 0.114]).astype(stored.dtype)
    if not photometric.startswith("MONOCHROME"):
        raise FilmError(f"a DICOM file in {photometric or 'no named'} colours, expected grey")
    pixels = stored
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    # An identity would only turn integers into floats.
    if "ModalityLUTSequence" in dataset or (slope or 1, intercept or 0) != (1, 0):
        pixels = apply_modality_lut(pixels, dataset)
    pixels = apply_voi_lut(pixels, dataset)
    if photometric == "MONOCHROME1":
        pixels = 255 - pixels if pixels.dtype == np.uint8 else pixels.max() - pixels
    padding = dataset.get("PixelPaddingValue")
    if padding is not None and (film := stored != padding).any():
        # Padding lies outside the film's range, would compress it, and is shown black.
        pixels = np.where(film, pixels, pixels[film].min())
    return pixels


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()

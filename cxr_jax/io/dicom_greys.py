"""What a DICOM image displays for its stored values: DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2.

pydicom's own windows turn images over where the rescale slope is negative, and its tables wrap.
"""

import re
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Bool, Float64, Num
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian

from cxr_jax.io.dicom import text
from cxr_jax.io.limits import ImageError
from cxr_jax.io.pixels import Greys

# A number with a decimal comma; "1,500" could be a thousand and "1500,2000" two numbers.
_COMMA = re.compile(r"[+-]?(\d+,\d{1,2}|0?,\d+)")


def displayed(stored: Num[np.ndarray, " n"], dataset: pydicom.Dataset, bits: int) -> Greys:
    """Returns the greys of stored values, white = dense.

    Args:
      stored: floats, or unsigned bit patterns as wide as BitsAllocated.
      bits: those of a pixel, from the lowest; above them lie overlays, which are no pixels.

    Raises:
      ImageError: header fields that make no sense; the message names them, not their values.
    """
    signed = bool(integer(dataset, "PixelRepresentation"))
    values = stored if stored.dtype.kind == "f" else numbers(stored, bits, signed)
    padding = _is_padding(stored, values, dataset, signed)
    if not np.isfinite(values[~padding]).all():
        raise ImageError("pixels that are not finite")
    fixed = dataset.BitsAllocated == bits == 8 and not signed
    greys = np.where(padding & ~np.isfinite(values), 0, values).astype(np.float64)
    slope, intercept = number(dataset, "RescaleSlope", 1), number(dataset, "RescaleIntercept", 0)
    if found := _looked_up(greys, dataset, "ModalityLUTSequence"):
        greys, fixed = found
    elif (slope, intercept) != (1, 0):
        if slope == 0:
            raise ImageError("a DICOM image whose RescaleSlope is 0, which makes all pixels equal")
        greys, fixed = slope * greys + intercept, False
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if width is not None and width < 0:
        raise ImageError("a DICOM image whose WindowWidth is negative")
    if found := _looked_up(greys, dataset, "VOILUTSequence"):
        greys, fixed = found
    elif centre is not None and width is not None and width > 0:
        greys, fixed = window(greys, centre, width, text(dataset, "VOILUTFunction").upper()), False
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    if text(dataset, "PresentationLUTShape").upper() == "INVERSE" and not inverse:
        raise ImageError(
            "a DICOM image whose PresentationLUTShape is INVERSE, and PhotometricInterpretation "
            "MONOCHROME2: which of the two holds nobody can know"
        )
    if inverse:
        greys = 255 - greys if fixed else -greys
    return Greys(np.where(padding, np.nan, greys), fixed)


def window(
    values: Float64[np.ndarray, " n"], centre: float, width: float, function: str
) -> Float64[np.ndarray, " n"]:
    """Maps values to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    >>> window(np.array([0.0, 100, 127, 200]), centre=100.0, width=101.0, function="").tolist()
    [0.0, 0.505, 0.775, 1.0]
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function not in ("", "LINEAR", "LINEAR_EXACT"):
        raise ImageError("a DICOM image with a VOILUTFunction that the standard does not have")
    if function != "LINEAR_EXACT" and width >= 1:  # narrower ones are allowed for exact alone
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _looked_up(
    values: Num[np.ndarray, " n"], dataset: pydicom.Dataset, keyword: str
) -> tuple[Float64[np.ndarray, " n"], bool] | None:
    """Looks values up in a sequence's first table that has entries (C.11.1.1); None without one.

    Also returns whether the entries are of 8 bits.
    """
    for item in dataset.get(keyword) or ():
        if item.get("LUTDescriptor") is not None and item.get("LUTData"):
            return look_up(values, item, "LUT", is_big_endian(dataset))
    return None


def look_up(
    values: Num[np.ndarray, " *n"], holder: pydicom.Dataset, table: str, big_endian: bool
) -> tuple[Float64[np.ndarray, " *n"], bool]:
    """Looks values up in a table: fields TABLEDescriptor and TABLEData (C.11.1.1, C.7.6.3.1.5).

    Also returns whether the entries are of 8 bits.

    Raises:
      ImageError: no such table, or one with fewer entries than it promises.
    """
    descriptor, data = holder.get(f"{table}Descriptor"), holder.get(f"{table}Data")
    if not (data and isinstance(descriptor, MultiValue | list) and len(descriptor) == 3):
        raise ImageError(f"a DICOM image whose {table}Descriptor or {table}Data is incomplete")
    count, first, bits = (int(part) for part in descriptor)
    count = count % 2**16 or 2**16
    if not isinstance(data, bytes):
        data = (np.atleast_1d(data).astype(np.int64) % 2**16).astype("<u2").tobytes()
    elif big_endian and holder[f"{table}Data"].VR == "OW":
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    # Two to a word, whatever `bits` says, unless they are half of a table of words.
    packed = len(data) == count + count % 2 and (bits <= 8 or _is_smooth(data))
    if not packed and len(data) < 2 * count:
        raise ImageError(f"a DICOM image whose {table}Data has fewer entries than it promises")
    entries = np.frombuffer(data, np.uint8 if packed else "<u2", count).astype(np.float64)
    # The first value is signed or not as the pixels are, whatever its own type says.
    low, high = values.min(), values.max()
    first = max(
        (first, first - 2**16, first + 2**16),
        key=lambda start: min(high, start + count - 1) - max(low, start),
    )
    place = np.clip(np.rint(values - first), 0, count - 1).astype(np.int64)
    return entries[place], bool((packed or bits == 8) and entries.max() <= 255)


def _is_smooth(data: bytes) -> bool:
    """Tells bytes of a curve, each near the next, from lower and higher bytes of words by turns."""
    curve = np.frombuffer(data, np.uint8).astype(int)
    steps = [np.abs(np.diff(part)).sum() for part in (curve, curve[::2], curve[1::2])]
    return bool(steps[0] <= steps[1] + steps[2])


def is_big_endian(dataset: pydicom.Dataset) -> bool:
    return dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian


def numbers(patterns: Num[np.ndarray, " *n"], bits: int, signed: bool) -> Num[np.ndarray, " *n"]:
    """Returns the numbers in the lowest bits, in two's complement if signed (PS3.5 8.1.1)."""
    values = patterns.astype(np.int64) & (2**bits - 1)
    return values - ((values >> (bits - 1)) << bits) if signed else values


def _is_padding(
    stored: Num[np.ndarray, " n"],
    values: Num[np.ndarray, " n"],
    dataset: pydicom.Dataset,
    signed: bool,
) -> Bool[np.ndarray, " n"]:
    """Masks what lies outside the image (C.7.5.1.1.2), whatever type its value was written in."""
    if stored.dtype.kind == "f":
        kind = "DoubleFloatPixelPadding" if stored.itemsize == 8 else "FloatPixelPadding"
        value = dataset.get(f"{kind}Value")
        if value is None:
            return np.zeros(stored.shape, bool)
        low, high = np.sort([value, dataset.get(f"{kind}RangeLimit", value)])
        return ((values >= low) & (values <= high)) | (np.isnan(values) & np.isnan(value))
    value = integer(dataset, "PixelPaddingValue", None)
    if value is None:
        return np.zeros(stored.shape, bool)
    allocated = dataset.BitsAllocated
    limit = integer(dataset, "PixelPaddingRangeLimit", value)
    patterns = np.array([value, limit]) % 2**allocated
    low, high = np.sort(numbers(patterns, allocated, signed))
    # A value beyond the pixels' bits is one that no pixel has, and is compared whole.
    return ((values >= low) & (values <= high)) | (stored == patterns[0])


def number(dataset: pydicom.Dataset, keyword: str, absent: Any = None) -> float | Any:
    """Returns a field's first number, `absent` if it has none; ImageError if it is no number."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue | list):
        value = value[0] if len(value) else None
    value = "" if value is None else str(value).split("\\")[0].strip()
    if not value:
        return absent
    try:
        if "_" in value:
            raise ValueError  # Python takes 2_000 for a number
        found = float(value.replace(",", ".") if _COMMA.fullmatch(value) else value)
    except ValueError as error:
        raise ImageError(f"a DICOM file whose {keyword} is not a number") from error
    if not np.isfinite(found):
        raise ImageError(f"a DICOM file whose {keyword} is not finite")
    return found


def integer(dataset: pydicom.Dataset, keyword: str, absent: int | None = 0) -> int | None:
    """Returns a field's whole number, `absent` if it is not there or empty; else as `number`."""
    found = number(dataset, keyword, absent)
    return None if found is None else int(found)

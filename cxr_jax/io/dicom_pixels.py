"""The pixels of a DICOM image as they are displayed."""

from __future__ import annotations

import functools
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Num
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from cxr_jax.io.dicom import BROKEN, refuse_deflated, text
from cxr_jax.io.limits import MAX_STORED_BYTES, BoundedFile, ImageError, check_coded, check_size
from cxr_jax.io.pixels import Scaled, Show, draft_jpeg, reduction, stretched, to_uint8, unscaled

# The reversible wavelet's rounding lifts each level by some 0.4 of the smallest stored step, at 8
# bits too much.
LEAST_BITS = 10


def read_pixels(path: Path, shorter_side: int | None = None) -> Scaled:
    """Reads an image as 8-bit grey with rescale and window applied, and white = dense.

    Args:
      shorter_side: if given, JPEG and JPEG 2000 may be decoded at a scale that suffices for it.

    Raises:
      ImageError: no pixels, several frames, an absurd size or a stream that cannot be decoded. The
        message holds no value of a tag other than sizes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with BoundedFile(path) as file:
                refuse_deflated(file)
                dataset = pydicom.dcmread(file)
            _check(dataset)
            return _displayed(dataset, shorter_side)
    except ImageError:
        raise
    except BROKEN as error:
        # The error's own text may quote tags.
        raise ImageError(f"a DICOM file that cannot be decoded ({type(error).__name__})") from error


def _check(dataset: pydicom.Dataset) -> None:
    if "PixelData" not in dataset:
        # The latter because pydicom drops an element that ends too early.
        raise ImageError("a DICOM file without pixels, or cut off within them")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError("a DICOM file with several frames, expected one image")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    check_size(columns, rows)
    samples, bits = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated)
    stored = rows * columns * samples * bits // 8
    if samples not in (1, 3) or not 1 <= bits <= 64 or stored > MAX_STORED_BYTES:
        raise ImageError(
            f"a DICOM image of {columns} x {rows} x {samples} values of {bits} bits, "
            f"{stored:,} bytes; an image takes up to {MAX_STORED_BYTES:,}"
        )
    check_coded(columns, rows, len(dataset.PixelData))
    if int(dataset.HighBit) != int(dataset.BitsStored) - 1:
        raise ImageError("a DICOM image whose bits are not where its header says (HighBit)")
    width = dataset.get("WindowWidth")
    width = width[0] if isinstance(width, MultiValue) else width
    if width is not None and float(width) <= 0:
        del dataset.WindowWidth  # it is empty: the image's own range is shown
    coded = _coded_size(dataset)
    if coded is not None and coded != (columns, rows):
        raise ImageError("a DICOM image of another size than its header says")


def _coded_size(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Returns columns and rows as a JPEG or JPEG-LS frame claims, before anything is decoded."""
    if dataset.file_meta.TransferSyntaxUID not in JPEGTransferSyntaxes + JPEGLSTransferSyntaxes:
        return None
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        # Start of frame, in any of JPEG's processes or JPEG-LS.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack(">HH", frame[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _displayed(dataset: pydicom.Dataset, shorter_side: int | None) -> Scaled:
    show = functools.partial(_greys, dataset=dataset)
    reduced = _reduced(dataset, show, shorter_side)
    if reduced is not None:
        return reduced
    stored = pixel_array(dataset, view_only=True)
    if stored.ndim == 3:
        # ITU-R 601, as Pillow does for colour PNG and JPEG; pydicom has made YBR into RGB.
        luminance = np.round(stored[..., :3] @ [0.299, 0.587, 0.114]).astype(stored.dtype)
        return unscaled(luminance if luminance.dtype == np.uint8 else to_uint8(luminance))
    photometric = text(dataset, "PhotometricInterpretation")
    if not photometric.startswith("MONOCHROME"):
        raise ImageError("a DICOM file in colours that are not shades of grey")
    # Padding lies outside the image's range, would compress it, and is shown black.
    image = to_uint8(stored, show, _padding(dataset))
    if image.min() == image.max() and stored.min() != stored.max():
        raise ImageError("a DICOM image of which its window shows one grey only")
    return unscaled(image)


def _padding(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Returns the lowest and highest stored value that lie outside the image."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return None
    return tuple(sorted((int(value), int(value if limit is None else limit))))


def _greys(values: Num[np.ndarray, " n"], dataset: pydicom.Dataset) -> Num[np.ndarray, " n"]:
    """Maps stored values to what is displayed for them, white = dense, of any range."""
    greys = values
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    # An identity would only turn integers into floats.
    if "ModalityLUTSequence" in dataset or (slope or 1, intercept or 0) != (1, 0):
        greys = apply_modality_lut(greys, dataset)
    greys = apply_voi_lut(greys, dataset)
    if greys.dtype == np.uint8 and dataset.BitsStored < 8:
        greys = greys.astype(np.float64)  # a range that has to be stretched
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        return 255 - greys if greys.dtype == np.uint8 else -greys.astype(np.float64)
    return greys


def _reduced(dataset: pydicom.Dataset, show: Show, shorter_side: int | None) -> Scaled | None:
    """Decodes the image at the scale that suffices; None where that would change it.

    What is shown as it is stored, or as its negative, can be reduced first. Everything else is
    stretched between the image's extremes, which a reduced scale averages away, so that they must
    be known: they are if the reduced image already spans all greys that its window shows.
    """
    image = _open_frame(dataset)
    n = reduction((dataset.Columns, dataset.Rows), shorter_side)
    if (
        image is None
        or n == 1
        or (dataset.SamplesPerPixel, dataset.PixelRepresentation) != (1, 0)
        or dataset.BitsStored > 16
        or not text(dataset, "PhotometricInterpretation").startswith("MONOCHROME")
        or "PixelPaddingValue" in dataset
    ):
        return None
    values = np.arange(2**dataset.BitsStored, dtype=f"u{dataset.BitsAllocated // 8}")
    greys = show(values)
    steps = np.diff(greys.astype(np.float64))
    as_stored = greys.dtype == np.uint8 and abs(steps[0]) == 1 and (steps == steps[0]).all()
    if greys.dtype == np.uint8 and not as_stored:
        return None
    decode = _reduced_jpeg if isinstance(image, JpegImageFile) else _reduced_jpeg2000
    try:
        original = decode(image, dataset.BitsStored, n)
    except (OSError, SyntaxError):  # too few levels, or broken: pydicom will say
        original = None
    if original is None:
        return None
    shown = greys[original.pixels]
    if as_stored:
        return original._replace(pixels=shown)
    spans = float(np.ptp(shown)) >= (1 - 0.5 / 255) * float(np.ptp(greys))
    return original._replace(pixels=stretched(greys)[original.pixels]) if spans else None


def _open_frame(dataset: pydicom.Dataset) -> ImageFile | None:
    """Opens a JPEG or JPEG 2000 frame; None for others and for what Pillow does not open."""
    kind = _FRAMES.get(dataset.file_meta.TransferSyntaxUID)
    if kind is None:
        return None
    try:
        image = kind(io.BytesIO(get_frame(dataset.PixelData, 0, number_of_frames=1)))
    except (OSError, SyntaxError):
        return None
    if image.size != (dataset.Columns, dataset.Rows):
        raise ImageError("a DICOM image of another size than its header says")
    return image


def _reduced_jpeg(image: JpegImageFile, bits: int, n: int) -> Scaled | None:
    """Decodes a grey baseline JPEG at 1/n."""
    if image.mode != "L" or bits != 8:
        return None
    size, box = image.size, draft_jpeg(image, n)
    return Scaled(np.asarray(image), size, box)


def _reduced_jpeg2000(image: Jpeg2KImageFile, bits: int, n: int) -> Scaled | None:
    """Decodes grey JPEG 2000 at 1/n or more: the coarser levels of its wavelet."""
    size, container = image.size, {"L": 8, "I;16": 16}.get(image.mode)
    coded = get_j2k_parameters(image.fp.getvalue())
    if (coded.get("precision"), coded.get("is_signed")) != (bits, False) or bits < LEAST_BITS:
        return None
    # Pillow rounds a reduced side, the format rounds it up: where they differ it fails.
    while any((side + n // 2) // n != -(-side // n) for side in size):
        n //= 2
    image.reduce = n.bit_length() - 1
    # Pillow fills its type from the top.
    pixels = np.asarray(image) >> (container - bits)
    # Level k keeps the place of every 2**k-th pixel, not of blocks: their first, not their middle.
    left = 0.5 - 0.5 / n
    box = (left, left, left + size[0] / n, left + size[1] / n)
    return Scaled(np.pad(pixels, (0, 1), mode="edge"), size, box)


_FRAMES = {
    JPEGBaseline8Bit: JpegImageFile,
    JPEG2000: Jpeg2KImageFile,
    JPEG2000Lossless: Jpeg2KImageFile,
}

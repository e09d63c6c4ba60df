"""One film from PNG, JPEG or DICOM to 8-bit grey, white = dense as a radiologist sees it."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageOps

from data_builders import dicom
from data_builders.film_error import FilmError

# A film has at most some 5,000 x 5,000 pixels; beyond this a header is broken or hostile.
MAX_PIXELS = 100_000_000
MIN_SIDE = 16
JPEG_QUALITY = 95
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})

_FORMATS = ("PNG", "JPEG")
# What Pillow raises on broken files, beyond OSError.
_BROKEN = (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, TypeError)


def read_film(path: Path, shorter_side: int | None = None) -> UInt8[np.ndarray, "h w 1"]:
    """Reads a film as 8-bit grey.

    16-bit films are scaled from their own darkest to their own brightest value; colour becomes
    luminance; transparency is ignored; EXIF orientation is applied; DICOM gets its rescale and
    window and is inverted if MONOCHROME1.

    Args:
      path: a PNG, JPEG or DICOM file; DICOM is known by its content, whatever its name.
      shorter_side: if given, a JPEG may be decoded at a reduced scale that leaves the shorter
        side at least twice this long.

    Raises:
      FilmError: the file is missing, empty, truncated, of another format, without pixels, has
        several frames or an absurd size. The message holds nothing about the patient.
    """
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise FilmError("no such file") from error
    if size == 0:
        raise FilmError("the file is empty")
    if dicom.is_dicom(path):
        return to_uint8(dicom.read_pixels(path, MAX_PIXELS, MIN_SIDE))
    try:
        with warnings.catch_warnings():
            # What Pillow only warns about is within MAX_PIXELS or refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _read_picture(path, shorter_side)
    except FilmError:
        raise
    except Image.DecompressionBombError as error:
        raise FilmError("an absurd size, beyond what Pillow opens") from error
    except Image.UnidentifiedImageError as error:
        raise FilmError("not a PNG, JPEG or DICOM file, or one with a broken header") from error
    except _BROKEN as error:
        raise FilmError(f"cannot be decoded ({_first_line(error)})") from error


def _read_picture(path: Path, shorter_side: int | None) -> UInt8[np.ndarray, "h w 1"]:
    with Image.open(path, formats=_FORMATS) as image:
        check_size(*image.size)
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise FilmError(f"{image.n_frames} frames, expected one film")
        if image.format == "JPEG" and shorter_side is not None:
            # Twice the target on the shorter side; draft never goes below what is asked.
            scale = 2 * shorter_side / min(image.size)
            image.draft(None, tuple(max(1, int(np.ceil(n * scale))) for n in image.size))
        image.load()
        return to_uint8(_grey(ImageOps.exif_transpose(image)))


def check_size(width: int, height: int) -> None:
    """Refuses sizes no film has.

    Raises:
      FilmError: a side is below 16 pixels or the area beyond 100 million.
    """
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise FilmError(
            f"an absurd size of {width} x {height} pixels (sides from {MIN_SIDE}, area up to "
            f"{MAX_PIXELS:,})"
        )


def to_uint8(pixels: Num[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 1"]:
    """8-bit pixels as they are, others stretched from their minimum to 0 and maximum to 255."""
    if pixels.dtype != np.uint8:
        values = pixels.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise FilmError("pixels that are not finite")
        # Constant films stay constant; they carry nothing to be stretched.
        scale = 255.0 / (high - low) if high > low else 0.0
        pixels = np.round((values - low) * scale).astype(np.uint8)
    return np.ascontiguousarray(pixels)[..., None]


def shrink(
    image: UInt8[np.ndarray, "h w 1"], resolution: int | None
) -> UInt8[np.ndarray, "h2 w2 1"]:
    """Makes the shorter side `resolution` pixels, antialiased, aspect kept; never enlarges."""
    height, width = image.shape[:2]
    if resolution is None or min(height, width) <= resolution:
        return image
    scale = resolution / min(height, width)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    small = Image.fromarray(image[..., 0]).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small)[..., None]


def encode(image: UInt8[np.ndarray, "h w 1"], encoding: str) -> bytes:
    """Encodes grey pixels as "jpeg" (quality 95) or "png"."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, encoding, quality=JPEG_QUALITY)
    return stream.getvalue()


def _grey(image: Image.Image) -> Num[np.ndarray, "h w"]:
    """Pixels as one channel: deep modes as they are, alpha dropped, colours to luminance."""
    if image.mode in ("L", "I", "I;16", "I;16B", "I;16L", "F"):
        return np.asarray(image)
    # Via RGB: palettes are looked up and alpha is dropped, not multiplied in; grey stays exact.
    return np.asarray(image.convert("RGB").convert("L"))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()

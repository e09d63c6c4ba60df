"""One image from PNG, JPEG or DICOM to 8-bit grey, white = dense as a radiologist sees it."""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from cxr_jax.io import dicom, dicom_pixels, pictures, pixels
from cxr_jax.io.limits import BoundedFile, ImageError

JPEG_QUALITY = 95
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".dcm", ".dicom"})

_ORIENTATION = Base.Orientation
# What Pillow raises on broken files.
_BROKEN = (*dicom.BROKEN, SyntaxError)


def without_suffix(name: str) -> str:
    """Returns an image's path as ids of image_folder have it: without an extension of ours.

    >>> [without_suffix(name) for name in ("ward/7.PNG", "ward/8.jfif", "ward/1.2.840")]
    ['ward/7', 'ward/8', 'ward/1.2.840']
    """
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def read_image(path: Path, shorter_side: int | None = None) -> UInt8[np.ndarray, "h w 1"]:
    """Reads an image as 8-bit grey.

    16-bit images are scaled from their own darkest to their own brightest value; colour becomes
    luminance; transparency is ignored; EXIF orientation is applied; DICOM gets its rescale and
    window and is inverted if MONOCHROME1.

    Args:
      path: a PNG, JPEG or DICOM file; DICOM is known by its content, whatever its name.
      shorter_side: if given, larger images come shrunk to it, as `shrink` does; a JPEG is then
        decoded at 1/2 or 1/4 where that stays within a grey level of the full decode, on average.

    Raises:
      ImageError: the file is missing, empty, truncated, of another format, without pixels, has
        several frames, an absurd size or length. The message holds nothing about the patient.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImageError("no such file") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("a folder, a pipe or a device, expected a file")
    if status.st_size == 0:
        raise ImageError("the file is empty")
    if dicom.is_dicom(path):
        return shrink(dicom_pixels.read_pixels(path)[..., None], shorter_side)
    try:
        with warnings.catch_warnings():
            # What Pillow only warns about is within our limits, or refused below.
            warnings.simplefilter("ignore")
            return _read_picture(path, shorter_side)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"an absurd size ({_first_line(error)})") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError("not a PNG, JPEG or DICOM file, or one with a broken header") from error
    except _BROKEN as error:
        raise ImageError(f"cannot be decoded ({_first_line(error)})") from error


def _read_picture(path: Path, shorter_side: int | None) -> UInt8[np.ndarray, "h w 1"]:
    with BoundedFile(path) as file, Image.open(file, formats=("PNG", "JPEG")) as image:
        if image.format == "PNG" and image.n_frames > 1:
            raise ImageError(f"{image.n_frames} frames, expected one image")
        file.seek(0)
        encoded = file.read()
        whole = pictures.decode(encoded, shorter_side)
        # Pillow decodes a PNG to look for it.
        exif = image.getexif() if image.format != "PNG" or b"eXIf" in encoded else {}
    return _upright(pixels.shrink(whole, shorter_side), exif.get(_ORIENTATION, 1))


def shrink(
    image: UInt8[np.ndarray, "h w 1"], resolution: int | None
) -> UInt8[np.ndarray, "h2 w2 1"]:
    """Makes the shorter side `resolution` pixels; see `pixels.shrink`."""
    small = pixels.shrink(pixels.unscaled(image[..., 0]), resolution)
    return np.ascontiguousarray(small)[..., None]


def encode(image: UInt8[np.ndarray, "h w 1"], encoding: str) -> bytes:
    """Encodes grey pixels as "jpeg" (quality 95) or "png"."""
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, encoding, quality=JPEG_QUALITY)
    return stream.getvalue()


def _upright(original: UInt8[np.ndarray, "h w"], orientation: int) -> UInt8[np.ndarray, "h2 w2 1"]:
    image = Image.fromarray(original)
    image.getexif()[_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))[..., None]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()

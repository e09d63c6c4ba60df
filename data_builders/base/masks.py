"""Masks: which pixels of an image are of a finding or an organ, as owners give them and as stored.

A stored mask is a PNG as large as the stored image, 255 within and 0 outside. An image has a mask
of every name that its owner looked for on it; where nothing was found the mask is empty.
"""

from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import Bool, Num, UInt8
from PIL import Image

from cxr_jax.io import image_io
from cxr_jax.io.limits import BoundedFile, ImageError, check_size

Masks = Mapping[str, Bool[np.ndarray, "_ _"] | None]  # None: looked for, and nothing found


def read(path: Path) -> Bool[np.ndarray, "h w"]:
    """Reads a mask's file, PNG or GIF: what is not black is within.

    Raises ImageError, also for a mask that lies in the file's transparency.
    """
    return _greys(path) > 0


def read_own(files: Mapping[str, Path]) -> Masks:
    """Reads a person's masks by name; raises ImageError as `read`, and for two greys beside black.

    Such a file is a map of several labels, or a picture.
    """
    found = {}
    for name, path in files.items():
        greys = _greys(path)
        values = np.unique(greys)
        if np.count_nonzero(values) > 1:
            raise ImageError(
                f"its mask of {name} has {len(values)} grey values, not black and another one: a "
                "map of several labels is parted into a file for each of them"
            )
        found[name] = greys > 0
    return found


def _greys(path: Path) -> Num[np.ndarray, "h w"]:
    if path.suffix.lower() == ".gif":
        return _gif(path)
    greys = image_io.read_image(path)[..., 0]
    encoded = path.read_bytes()
    if not encoded.startswith(b"\x89PNG"):
        return greys  # a JPEG or DICOM file
    pixels = np.atleast_3d(imagecodecs.png_decode(encoded))
    colours = pixels[..., : 3 if pixels.shape[-1] > 2 else 1]
    alpha = pixels[..., colours.shape[-1] :]
    if (alpha < np.iinfo(alpha.dtype).max).any():
        raise ImageError(
            "a mask with transparent pixels: whether it lies in them or in its greys, the file "
            "does not say. Save it in black and white, without transparency"
        )
    # 16 bits as they are: a stretch would turn a mask that is all white to black.
    return greys if pixels.dtype == np.uint8 else colours.max(axis=-1)


def _gif(path: Path) -> UInt8[np.ndarray, "h w"]:
    try:
        with BoundedFile(path) as file, Image.open(file, formats=("GIF",)) as image:
            check_size(*image.size)
            return np.asarray(image.convert("L"))
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError("a mask that cannot be read") from error


def union(files: Mapping[str, tuple[Path, ...]]) -> Masks:
    """Reads masks by name, each of all its files together; raises ImageError as `read`.

    >>> union({})
    {}
    """
    found = {}
    for name, paths in files.items():
        parts = [read(path) for path in paths]
        if len({part.shape for part in parts}) > 1:
            raise ImageError(f"the files of its mask of {name} differ in size")
        found[name] = np.logical_or.reduce(parts)
    return found


def encode(masks: Masks, stored: UInt8[np.ndarray, "h w 1"]) -> tuple[tuple[str, bytes], ...]:
    """Returns each mask as it is stored beside the image, by its name.

    An owner's mask covers its image, on a grid of any fineness: it is brought to the stored image's
    pixels by the image's own filter, and a pixel is within if half of it is.

    Raises ImageError, naming the mask, for one of another shape than its image.
    """
    height, width = stored.shape[:2]
    found = []
    for name, mask in masks.items():
        pixels = np.zeros((height, width), np.uint8)
        if mask is not None:
            rows, columns = mask.shape
            if abs(columns * height / rows - width) > 1:  # a pixel: sides are whole numbers
                raise ImageError(
                    f"its mask of {name} has another shape, {rows} x {columns} pixels (the image "
                    f"is stored as {height} x {width}): it is another image's, or was cut"
                )
            whole = Image.fromarray(255 * mask.astype(np.uint8))
            small = whole.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.where(np.asarray(small) >= 128, 255, 0).astype(np.uint8)
        found.append((name, image_io.encode(pixels[..., None], "png")))
    return tuple(found)

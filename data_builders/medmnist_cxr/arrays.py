"""MedMNIST's .npz files: headers are checked before anything is unpacked, nothing is unpickled."""

from __future__ import annotations

import errno
import functools
import math
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from cxr_jax.io.limits import read_npy_header
from data_builders.base.records import BuildError

# NumPy writes headers of 128 bytes, and labels of at most 8 each.
MAX_HEADER = 10_000
MAX_ITEM = 8


class Wanted(NamedTuple):
    """What one part of an .npz should be."""

    part: str  # "train", "val" or "test"
    num_images: int  # the owner's; a file may have fewer
    side: int  # pixels of an image's sides
    num_labels: int


class Part(NamedTuple):
    """One part of an .npz: images unpacked to `images` (an .npy), labels [n k] as lists."""

    images: Path
    labels: list[list[int]]


def unpack(path: Path, wanted: Wanted, folder: Path) -> Part:
    """Unpacks one part's images into `folder` and reads its labels.

    Args:
      folder: exists; takes n * side² bytes.

    Raises:
      BuildError: not such a file, images or labels of another shape or type, or more than wanted.
    """
    part, most, side, num_labels = wanted
    try:
        with zipfile.ZipFile(path) as archive:
            images = _check(archive, path, f"{part}_images", most, (side, side))
            labels = _check(archive, path, f"{part}_labels", most, (num_labels,))
            if images[0] != labels[0]:
                raise BuildError(
                    f"{path.name} has {images[0]:,} images in {part}_images and {labels[0]:,} rows "
                    f"in {part}_labels. Download it again."
                )
            copy = folder / f"{part}_images.npy"
            with archive.open(f"{part}_images.npy") as source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            with archive.open(f"{part}_labels.npy") as source:
                values = np.lib.format.read_array(source, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk's, not the file's, whose places may lie before its start
        raise BuildError(f"{path} is broken or cut off ({error}). Download it again.") from error
    if not np.isin(values, (0, 1)).all():
        raise BuildError(f"{path.name}: {part}_labels holds something else than 0 and 1.")
    return Part(copy, values.tolist())


def _check(
    archive: zipfile.ZipFile, path: Path, name: str, most: int, each: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of a member; one of its at most `most` entries has the shape `each` and bytes
    (labels: whole numbers)."""
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise BuildError(
            f"{path} has no {name}; it holds {', '.join(archive.namelist()[:8]) or 'nothing'}."
        )
    entry = archive.getinfo(member)
    if entry.file_size > MAX_HEADER + most * math.prod(each) * MAX_ITEM:
        raise BuildError(
            f"{path.name}: {name} unpacks to {entry.file_size:,} bytes, more than the owner's "
            f"{most:,} entries can take. Download it again."
        )
    with archive.open(entry) as stream:
        try:
            shape, fortran, dtype = read_npy_header(stream)
        except ValueError as error:
            raise BuildError(f"{path.name}: {name} is {error}. Download it again.") from error
        size = stream.tell() + math.prod(shape) * dtype.itemsize
    wanted = f"[n, {', '.join(map(str, each))}]"
    if len(shape) != 1 + len(each) or shape[1:] != each or fortran:
        raise BuildError(
            f"{path.name}: {name} has the shape {list(shape)}, expected {wanted}. Is it another of "
            "MedMNIST's files under this name?"
        )
    if shape[0] > most:
        raise BuildError(
            f"{path.name}: {name} has {shape[0]:,} entries, the owner's {most:,}. Download it again."
        )
    if dtype != np.uint8 and (len(each) > 1 or dtype.kind not in "iu"):
        raise BuildError(f"{path.name}: {name} is of type {dtype}, expected uint8.")
    if entry.file_size != size:
        raise BuildError(
            f"{path.name}: {name} has {entry.file_size:,} bytes, but its header says {size:,}. "
            "Download it again."
        )
    return shape


def read_image(images: Path, index: int) -> UInt8[np.ndarray, "h w"]:
    """One image of an unpacked .npy; the file is mapped, so that images in any order cost no more."""
    return np.array(_mapped(images)[index])


@functools.lru_cache(maxsize=3)  # one a part
def _mapped(images: Path) -> np.ndarray:
    return np.lib.format.open_memmap(images, mode="r")

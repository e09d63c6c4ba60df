"""MedMNIST v2 (Yang et al. 2023): PneumoniaMNIST and ChestMNIST, 28 to 224 pixels."""

import dataclasses
import errno
import functools
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cxr_jax.io.limits import read_npy_header
from data_builders.base import builder, folders
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.nih_chestxray14.nih_chestxray14_dataset_builder import NIH_FINDINGS

PARTS = {"train": "train", "val": "validation", "test": "test"}
SIDES = (28, 64, 128, 224)
# NumPy writes headers of 128 bytes, and labels of at most 8 each.
MAX_HEADER, MAX_ITEM = 10_000, 8


class Subset(NamedTuple):
    """One of MedMNIST's sets: labels in its order, whose images, their projection, how many."""

    labels: tuple[str, ...]
    parent: str
    projection: str
    counts: tuple[int, int, int]  # train, val, test


SUBSETS = {
    "pneumoniamnist": Subset(("Pneumonia",), "pediatric_pneumonia", "AP", (4708, 524, 624)),
    # Its 14 labels are NIH's, in NIH's order.
    "chestmnist": Subset(NIH_FINDINGS, "nih_chestxray14", "FRONTAL", (78468, 11219, 22433)),
}


@dataclasses.dataclass(eq=False, kw_only=True)
class MedMnistConfig(builder.CxrConfig):
    """One of MedMNIST's files.

    Attributes:
      subset: "pneumoniamnist" or "chestmnist".
      side: pixels of an image's sides.
    """

    subset: str
    side: int
    resolution: int | None = None


def configs() -> list[MedMnistConfig]:
    """Returns a config for each file, named as the file is; the first is the default."""
    return [
        MedMnistConfig(
            name=subset if side == 28 else f"{subset}_{side}",
            subset=subset,
            side=side,
            description=f"{subset}, {side} x {side} pixels",
        )
        for subset in SUBSETS
        for side in SIDES
    ]


class Builder(builder.CxrBuilder):
    """One .npz a config; an image's place in the file is all that is known of it."""

    BUILDER_CONFIGS: ClassVar = configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Put the file that is called as the config (pneumoniamnist.npz, chestmnist.npz, or with "
        "_64, _128 or _224) from https://medmnist.com into manual_dir, and choose it with "
        "--resolution=pneumoniamnist, --resolution=chestmnist_64 and so on."
    )
    HOMEPAGE: ClassVar = "https://medmnist.com"
    PATIENT: ClassVar = "image"
    PATIENT_NOTE: ClassVar = "MedMNIST publishes no patient ids."
    LICENCE: ClassVar = "CC BY 4.0"
    SPLIT_RULE: ClassVar = "The owner's."
    # 28 pixels have no room for JPEG's blocks.
    ENCODING: ClassVar = "png"

    @property
    def subset(self) -> Subset:
        return SUBSETS[self.builder_config.subset]

    @property
    def PARENT(self) -> str:
        return self.subset.parent

    @property
    def OWNER_COUNTS(self) -> Mapping[str, int]:
        names = (f"{split} images" for split in PARTS.values())
        return dict(zip(names, self.subset.counts, strict=True))

    def label_names(self) -> tuple[str, ...]:
        return self.subset.labels

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        subset, config = self.subset, self.builder_config
        name = f"{config.name}.npz"
        named = (path for path in folders.files_below(manual_dir) if path.name.casefold() == name)
        path = folders.unique(named, lambda path: name).get(name)
        if path is None:
            raise self.nothing(manual_dir, f"no {name}")
        # Images are read in the order of a hash, and an .npz can only be read from its start.
        scratch = Path(self.data_path) / builder.SCRATCH
        scratch.mkdir(parents=True, exist_ok=True)
        for (part, split), count in zip(PARTS.items(), subset.counts, strict=True):
            images, labels = unpack(path, part, count, config.side, len(subset.labels), scratch)
            for index, values in enumerate(labels):
                image_id = f"{part}/{index}"
                yield Record(
                    split=split,
                    image_id=image_id,
                    patient_id=image_id,
                    patient_known=False,
                    image=functools.partial(read_image, images, index),
                    labels=dict(zip(subset.labels, map(float, values), strict=True)),
                    projection=subset.projection,
                    row=f"{name}, {part}_labels[{index}]",
                )


def unpack(
    path: Path, part: str, most: int, side: int, num_labels: int, folder: Path
) -> tuple[Path, list[list[int]]]:
    """Unpacks the images of "train", "val" or "test" into `folder`; returns the .npy, and labels.

    Nothing is unpickled. `most`: the owner's number of images; a file may have fewer.

    Raises BuildError: not such a file, arrays of another shape or type, or more than that.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            images = _check(archive, path, f"{part}_images", most, (side, side))
            labels = _check(archive, path, f"{part}_labels", most, (num_labels,))
            if images != labels:
                raise BuildError(
                    f"{path.name} has {images:,} images in {part}_images and {labels:,} rows in "
                    f"{part}_labels. Download it again."
                )
            copy = Path(archive.extract(f"{part}_images.npy", folder))
            with archive.open(f"{part}_labels.npy") as source:
                values = np.lib.format.read_array(source, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk's, not the file's, whose places may lie before its start
        raise BuildError(f"{path} is broken or cut off ({error}). Download it again.") from error
    if not np.isin(values, (0, 1)).all():
        raise BuildError(f"{path.name}: {part}_labels holds other values than 0 and 1.")
    return copy, values.tolist()


def _check(
    archive: zipfile.ZipFile, path: Path, name: str, most: int, each: tuple[int, ...]
) -> int:
    """Returns the length of a member that has at most `most` entries of bytes in the shape `each`.

    Labels may be other whole numbers than bytes.
    """
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
    bytes_or_labels = dtype == np.uint8 or (len(each) == 1 and dtype.kind in "iu")
    fits = shape[1:] == each and len(shape) == 1 + len(each) and shape[0] <= most and not fortran
    if not (fits and bytes_or_labels and entry.file_size == size):
        raise BuildError(
            f"{path.name}: {name} is {dtype} of the shape {list(shape)} in {entry.file_size:,} of "
            f"{size:,} bytes, expected uint8 of the shape [n, {', '.join(map(str, each))}] with n "
            f"up to {most:,}. Is it another of MedMNIST's files under this name, or damaged?"
        )
    return shape[0]


def read_image(images: Path, index: int) -> UInt8[np.ndarray, "h w"]:
    """Reads one image of an unpacked .npy, which is mapped: images in any order cost no more."""
    return np.array(_mapped(images, mode="r")[index])


_mapped = functools.lru_cache(maxsize=3)(np.lib.format.open_memmap)  # one a part

"""The copy of SIIM-ACR in PNG: images and masks under names that hold the part and the label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scipy import ndimage

from cxr_jax.io import image_io
from cxr_jax.io.limits import ImageError
from data_builders.base import csv_table, folders
from data_builders.base.records import Box, BuildError

IMAGES, MASKS = "png_images", "png_masks"
TABLES = {"train": "stage_1_train_images.csv", "test": "stage_1_test_images.csv"}

_NAME = re.compile(r"(\d+)_(train|test)_([01])_")


class PngRow(NamedTuple):
    """One image: the file's name without .png, and what that name says."""

    stem: str
    number: str
    part: str  # "train" or "test"
    label: bool
    where: str


def rows(root: Path, stems: Iterable[str]) -> Iterator[PngRow]:
    """What the stage-1 tables list; where there is none, what the files' names say.

    Raises:
      BuildError: a name of another form, or a table that contradicts the name.
    """
    if folders.optional(root, *TABLES.values()) is None:
        yield from (parse(f"{stem}.png", f"{IMAGES}/{stem}.png") for stem in sorted(stems))
        return
    for part, table_name in TABLES.items():
        table = csv_table.Table(folders.require(root, table_name))
        at_name, at_label = table.index("new_filename"), table.index("has_pneumo")
        for row in table.rows(("new_filename", "has_pneumo")):
            parsed = parse(row.fields[at_name], row.where)
            if (part, csv_table.FLAGS.get(row.fields[at_label])) != (parsed.part, parsed.label):
                raise BuildError(
                    f"{row.where} contradicts the name of its image in part, which is {part!r}, or "
                    "has_pneumo. Restore the owner's file."
                )
            yield parsed


def parse(name: str, where: str) -> PngRow:
    """What an image's name says: "12_train_1_.png" is number 12, in train, with pneumothorax.

    Raises:
      BuildError: the name has another form.
    """
    stem = name.removesuffix(".png")
    match = _NAME.fullmatch(stem)
    if match is None:
        raise BuildError(f"{where}: the image is not named like 12_train_1_.png.")
    return PngRow(stem, match[1], match[2], match[3] == "1", where)


def mask_boxes(path: Path) -> list[tuple[float, float, float, float]] | None:
    """y0, x0, y1, x1 of each connected part of a mask; None if it cannot be read."""
    try:
        mask = image_io.read_image(path)[..., 0] > 0
    except ImageError:
        return None
    parts, _ = ndimage.label(mask, structure=[[1] * 3] * 3)
    height, width = mask.shape
    return [
        (y.start / height, x.start / width, y.stop / height, x.stop / width)
        for y, x in ndimage.find_objects(parts)
    ]


def as_boxes(label: str, places: Iterable[tuple[float, float, float, float]]) -> Iterator[Box]:
    """The places as boxes of a label."""
    return (Box(label, *place) for place in places)

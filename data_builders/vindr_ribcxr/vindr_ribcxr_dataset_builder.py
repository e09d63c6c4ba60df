"""VinDr-RibCXR (Nguyen et al. 2021): 245 images with the outlines of 20 ribs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from cxr_jax.io import image_io
from cxr_jax.io.json import read_json
from cxr_jax.io.limits import ImageError
from cxr_jax.io.text import MAX_BYTES
from data_builders.base import builder, folders, masks, splits
from data_builders.base.records import BuildError, Record, Skipped

IMAGES = "img"  # the key of files' names
RIBS = tuple(f"{side}{number}" for side in "RL" for number in range(1, 11))
NOT_DRAWN = "None"  # in place of an outline
TABLES = {"train": "Vindr_RibCXR_train_mask.json", "test": "Vindr_RibCXR_val_mask.json"}
# Of the owner's training images; the paper reports on the owner's validation images as a test set.
VALIDATION_SHARE = 1 / 8


class Builder(builder.CxrBuilder):
    """The owner's two tables of outlines and their images, at any depth."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Sign the agreement at https://vindr.ai/datasets/ribcxr and unpack what the owner sends "
        f"into manual_dir: {' and '.join(TABLES.values())}, data/train/img/*.png and "
        "data/val/img/*.png."
    )
    HOMEPAGE: ClassVar = "https://vindr.ai/datasets/ribcxr"
    LICENCE: ClassVar = "VinBigData's data use agreement"
    SPLIT_RULE: ClassVar = (
        "The owner's validation is test; one eighth of the owner's train images, by a fixed hash "
        "of the image, are validation. The owner gives no patients."
    )
    PATIENT: ClassVar = "image"
    PATIENT_NOTE: ClassVar = "The owner publishes no patient ids; the images are VinDr-CXR's."
    MASK_NAMES: ClassVar = RIBS
    OWNER_COUNTS: ClassVar = {"images": 245, "train+validation images": 196, "test images": 49}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        pictures = (path for path in files if path.suffix.lower() == ".png")
        images = folders.unique(pictures, lambda path: path.stem)
        found = (path for path in files if path.name in TABLES.values())
        tables = folders.unique(found, lambda path: path.name)
        listed = set()
        for part, name in TABLES.items():
            if name not in tables:
                raise self.nothing(manual_dir, f"no {name}")
            for where, image, outlines in read_outlines(tables[name]):
                listed.add(image)
                carved = splits.carve_validation(image, VALIDATION_SHARE)
                path = images.get(image, manual_dir / f"{image}.png")
                yield Record(
                    split=carved if part == "train" else part,
                    image_id=image,
                    patient_id=image,
                    patient_known=False,
                    image=path,
                    projection="PA",
                    masks=functools.partial(rib_masks, path, outlines, where),
                    row=where,
                )
        reason = f"in neither {' nor '.join(TABLES.values())}"
        yield from folders.not_listed(images, listed, manual_dir, reason)


def read_outlines(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields where an image is listed, its file's name without .png and its outlines by rib.

    Raises BuildError: no such table, or a rib's indices are others than the images'.
    """
    try:
        held = read_json(path, most=MAX_BYTES)
    except ValueError as error:
        raise BuildError(f"{error}. Restore the owner's file.") from error
    for key in (IMAGES, *RIBS):
        if not isinstance(held.get(key), dict):
            raise BuildError(
                f"{path.name} has no object {key!r}, by index. Restore the owner's file, which has "
                f"{IMAGES} and {', '.join(RIBS)}."
            )
        if other := held[key].keys() ^ held[IMAGES].keys():
            index = min(other)
            has, lacks = (key, IMAGES) if index in held[key] else (IMAGES, key)
            raise BuildError(
                f"{path.name}, index {index}: it is in {has!r}, not in {lacks!r} ({len(other):,} "
                "in all): outlines may be other images'. Restore the owner's file."
            )
    for index, name in held[IMAGES].items():
        where = f"{path.name}, index {index}"
        if not isinstance(name, str) or not name.endswith(".png"):
            raise BuildError(f"{where}: its {IMAGES} is no name of a .png file.")
        yield where, PurePosixPath(name).stem, {rib: held[rib][index] for rib in RIBS}


def rib_masks(image: Path, outlines: Mapping[str, Any], where: str) -> masks.Masks:
    """Returns a mask for each rib of an image; raises ImageError, naming the rib, as `fill`."""
    height, width, _ = image_io.read_image(image).shape
    return {
        rib: None if points == NOT_DRAWN else fill(points, height, width, f"{where}, {rib}")
        for rib, points in outlines.items()
    }


def fill(points: Any, height: int, width: int, where: str) -> Bool[np.ndarray, "h w"]:
    """Fills an outline, a list of {"x", "y"} in pixels that are cut to whole ones, with its edge.

    Raises ImageError: not three such points or more, or one more than a pixel off the image.
    """
    try:
        corners = [(float(point["x"]), float(point["y"])) for point in points]
    except (TypeError, KeyError, ValueError, OverflowError):
        corners = []
    if len(corners) < 3:
        raise ImageError(f"{where}: no outline of three points {{x, y}} or more")
    if not all(-1 <= x <= width + 1 and -1 <= y <= height + 1 for x, y in corners):
        raise ImageError(
            f"{where}: an outline beyond the image's {height} x {width} pixels: it is another's"
        )
    canvas = Image.new("L", (width, height))
    whole = [(int(x), int(y)) for x, y in corners]
    ImageDraw.Draw(canvas).polygon(whole, fill=255, outline=255)
    return np.asarray(canvas) > 0

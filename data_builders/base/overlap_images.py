"""The images behind a comparison: small versions to compare, larger ones to look at."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont

from cxr_jax.data import dataset_info, reader

THUMBNAIL = 32
PAIRS, COLUMNS = 24, 4
SIDE, CAPTION, GAP = 160, 18, 8


class Images:
    """Images of a built dataset by split and row."""

    def __init__(self, folder: Path):
        self._builder = dataset_info.open_built(Path(folder))

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 (lives as long as the command)
    def thumbnail(self, split: str, row: int) -> Float[np.ndarray, " pixels"]:
        """The image as `thumbnail` makes it."""
        return thumbnail(self.picture(split, row))

    def picture(self, split: str, row: int) -> Image.Image:
        """The image as stored."""
        return Image.open(io.BytesIO(self._example(split, row)["image"]))

    def image_id(self, split: str, row: int) -> str:
        """The image's name in its dataset."""
        return self._example(split, row)["image_id"].decode()

    def _example(self, split: str, row: int) -> dict:
        return self._source(str(split))[row]

    @functools.cache  # noqa: B019
    def _source(self, split: str) -> reader.Records:
        return reader.open_records(self._builder, split, ("image", "image_id"))


def thumbnail(picture: Image.Image) -> Float[np.ndarray, " pixels"]:
    """An image at 32 x 32 pixels, mean 0 and length 1: dot products are correlations."""
    small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float64).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-9)


def spread(count: int) -> Int[np.ndarray, " n"]:
    """Up to 24 places of a list, from its first to its last: the most and the least alike."""
    return np.unique(np.linspace(0, count - 1, min(count, PAIRS)).round().astype(int))


def write_picture(path: Path, pairs: Sequence[tuple[Image.Image, Image.Image, str]]) -> None:
    """Draws pairs of images side by side (A left, B right) with captions; no ids."""
    rows = -(-len(pairs) // COLUMNS)
    width, height = 2 * SIDE + 3 * GAP, SIDE + CAPTION + GAP
    sheet = Image.new("L", (COLUMNS * width, rows * height + GAP), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, (*images, caption) in enumerate(pairs):
        row, column = divmod(place, COLUMNS)
        left, top = column * width + GAP, row * height + GAP
        for number, image in enumerate(images):
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(small, (left + number * (SIDE + 2), top))
        draw.text((left, top + SIDE + 2), caption, fill=40, font=font)
    sheet.save(path, optimize=True)

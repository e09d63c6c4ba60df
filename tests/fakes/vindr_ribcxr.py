"""VinDr-RibCXR in miniature: two tables of outlines by index and rib, images of 72 x 60 pixels.

Quirks: points with fractions, and one at the image's very edge; a rib that is 'None'; tables beside
the images or in a folder of their own; a copy of a table. One image each of two points, of text in
place of points and of an outline off the image, a row without an image and an image without a row.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LAYOUTS = {"beside the images": {}, "apart": {"apart": True}}
HEIGHT, WIDTH = 72, 60
NUM = {"train": 24, "val": 6}
RIBS = [f"{side}{number}" for side in ("R", "L") for number in range(1, 11)]
TWO_POINTS, NO_POINTS, OFF, WITHOUT_FILE = 3, 4, 5, 6  # of train
WITHOUT_ROW = "VinDr_RibCXR_train_099"


class FakeImage(NamedTuple):
    """What the fake says of one image; `ribs`: y0, x0, y1, x1 of each, pixels within, or None."""

    picture: np.ndarray
    part: str
    ribs: dict[str, tuple[int, int, int, int] | None]


def image_id(part: str, index: int) -> str:
    return f"VinDr_RibCXR_{part}_{index:03}"


def rib(name: str, index: int) -> tuple[int, int, int, int] | None:
    """A bar; of every image R10 reaches the lower edge, and of every fourth L1 was not drawn."""
    number, left = int(name[1:]), name[0] == "L"
    if name == "L1" and index % 4 == 0:
        return None
    y0, x0 = 6 * number + index % 3, 32 if left else 2
    return (y0, x0, HEIGHT - 1 if name == "R10" else y0 + 3, x0 + 20 + index % 5)


def write(folder: Path, *, apart: bool = False) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id."""
    images = {}
    for part, count in NUM.items():
        place = folder / f"data/{part}"
        (place / "img").mkdir(parents=True)
        table = {"img": {}, **{name: {} for name in RIBS}}
        for index in range(count):
            name, key = image_id(part, index), str(index)
            table["img"][key] = f"data/{part}/img/{name}.png"
            ribs = {name: rib(name, index) for name in RIBS}
            for each, bar in ribs.items():
                table[each][key] = "None" if bar is None else outline(*bar)
            if part == "train" and index == WITHOUT_FILE:
                continue
            picture = draw_image(100 * (part == "val") + index, HEIGHT, WIDTH)
            Image.fromarray(picture).save(place / f"img/{name}.png")
            images[name] = FakeImage(picture, part, ribs)
        if part == "train":
            table["R2"][str(TWO_POINTS)] = outline(5, 5, 9, 9)[:2]
            table["L3"][str(NO_POINTS)] = "none"
            table["R9"][str(OFF)][0]["x"] = WIDTH + 40.5
            Image.fromarray(draw_image(99)).save(place / f"img/{WITHOUT_ROW}.png")
        home = folder / f"Annotations/{part}" if apart else place
        home.mkdir(parents=True, exist_ok=True)
        text = json.dumps(table)
        (home / f"Vindr_RibCXR_{part}_mask.json").write_text(text)
        if apart:
            (folder / f"Vindr_RibCXR_{part}_mask.json").write_text(text)
    return images


def outline(y0: int, x0: int, y1: int, x1: int) -> list[dict[str, float]]:
    """A bar's corners; the fractions are cut."""
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return [{"x": x + 0.8114, "y": y + 0.6881} for x, y in corners]

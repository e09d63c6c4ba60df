"""JSRT in miniature: raw negatives of 64 x 64 pixels, coordinates still on the 2048 grid.

Quirks: big-endian 12-bit numbers without a header; lines that end in CR, CRLF or LF, tabs in one
table and runs of spaces in the other, "?" for an age, rows with trailing fields; nodules at the
edge and of an unknown place; file names in lower case; images cut off and with swapped bytes, an
image without a row, a row without an image.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LAYOUTS = {
    "one folder of images": {},
    "two folders, CRLF, lower case": {"two_folders": True, "line_end": "\r\n", "lower": True},
    "LF": {"line_end": "\n"},
}
SIDE = 64
NUM_NODULES, NUM_NORMALS = 14, 12
CUT_OFF, SWAPPED = "JPCLN003", "JPCNN003"
WITHOUT_MASK = "JPCLN009"
WITHOUT_FILE, WITHOUT_ROW = "JPCLN004", "JPCNN099"
UNKNOWN_AGE, UNKNOWN_PLACE, AT_EDGE, TRAILING = "JPCLN005", "JPCLN006", "JPCLN007", "JPCLN008"


class FakeImage(NamedTuple):
    """What the fake says of one image: labels as stored, the box (y0, x0, y1, x1) if any."""

    picture: np.ndarray
    nodule: float
    malignant: float
    box: tuple[float, float, float, float] | None
    sex: str
    age: float


def write(
    folder: Path, *, line_end: str = "\r", two_folders: bool = False, lower: bool = False
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      line_end: of both tables.
      two_folders: nodules and others apart.
      lower: file names in lower case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, rows = {}, {"CLNDAT_EN.txt": [], "CNNDAT_EN.TXT": []}
    for prefix, count in (("JPCLN", NUM_NODULES), ("JPCNN", NUM_NORMALS)):
        for number in range(1, count + 1):
            name = f"{prefix}{number:03}"
            nodule = prefix == "JPCLN"
            sex, age = ("male", "female")[number % 2], "?" if name == UNKNOWN_AGE else 40 + number
            malignant = float(number % 3 == 0) if nodule else np.nan
            box = None
            if nodule:
                size, x, y = 7 * (number % 3 + 1), 1000 + number, 500 + 2 * number
                if name == AT_EDGE:
                    x, y = 2047, 3
                if name == UNKNOWN_PLACE:
                    x = y = "?"
                else:
                    radius = size / 0.175 / 2
                    corners = (y - radius, x - radius, y + radius, x + radius)
                    box = tuple(float(np.clip(corner / 2048, 0, 1)) for corner in corners)
                state = "malignant" if malignant else "benign"
                cells = (f"{name}.IMG", 3, size, age, sex, x, y, state, "r.lower lobe", "cancer")
                extra = ("", "") if name == TRAILING else ()
                rows["CLNDAT_EN.txt"].append("\t".join(map(str, (*cells, *extra))))
            else:
                rows["CNNDAT_EN.TXT"].append(f"{name}.IMG   {age}   {sex}   non-nodule ")
            if name == WITHOUT_FILE:
                continue
            if name != WITHOUT_MASK:
                _save_masks(folder, name, number)
            picture = draw_image(100 * nodule + number, SIDE, SIDE)
            _save(_place(folder, name, two_folders, lower), picture, name)
            if name not in (CUT_OFF, SWAPPED):
                age = np.nan if age == "?" else age
                images[name] = FakeImage(
                    picture, float(nodule), malignant, box, sex[0].upper(), age
                )
    _save(_place(folder, WITHOUT_ROW, two_folders, lower), draw_image(0, SIDE, SIDE), WITHOUT_ROW)
    tables = folder / "Clinical_Information"
    tables.mkdir()
    for name, lines in rows.items():
        text = line_end.join([*lines, ""])
        (tables / (name.lower() if lower else name)).write_bytes(text.encode())
    return images


def _place(folder: Path, name: str, two_folders: bool, lower: bool) -> Path:
    place = "All247images"
    if two_folders:
        place = "Nodule154images" if name.startswith("JPCLN") else "NonNodule93images"
    file = f"{name}.IMG"
    path = folder / place / (file.lower() if lower else file)
    path.parent.mkdir(exist_ok=True)
    return path


def _save_masks(folder: Path, name: str, number: int) -> None:
    """SCR's masks: half as fine as the image, a GIF for each organ, images in two folds."""
    for part, columns in (
        ("left lung", slice(2, 12)),
        ("right lung", slice(18, 30)),
        ("heart", 15),
    ):
        mask = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
        mask[4 + number % 5 : 24, columns] = 255
        path = folder / f"scratch/fold{1 + number % 2}/masks/{part}/{name}.gif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


def _save(path: Path, picture: np.ndarray, name: str) -> None:
    """White is stored as the smallest of 100 to 3,895."""
    stored = 4095 - (100 + np.round(picture / 255 * 3895))
    content = stored.astype("<u2" if name == SWAPPED else ">u2").tobytes()
    path.write_bytes(content[:-100] if name == CUT_OFF else content)

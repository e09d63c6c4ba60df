"""Kermany's pediatric images in miniature, as Kaggle packs them.

Quirks: a val part of its own, colour JPEGs, both forms of normal names, patient numbers that occur
in train and in test, a truncated JPEG, a name without a patient, macOS's droppings.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LAYOUTS = {"kaggle": {}}
NUM_PATIENTS = 40
TRUNCATED = "train/PNEUMONIA/person7_bacteria_701.jpeg"
NAMELESS = "train/PNEUMONIA/scan.jpeg"


def write(folder: Path) -> dict[str, np.ndarray]:
    """Writes `folder`/chest_xray/…; returns the pictures by path without suffix."""
    pictures: dict[str, np.ndarray] = {}

    def add(name: str, colour: bool = False) -> None:
        picture = draw_image(len(pictures), 90 + len(pictures) % 7, 80)
        path = folder / "chest_xray" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture)
        (image.convert("RGB") if colour else image).save(path, quality=95)
        pictures[name.removesuffix(".jpeg")] = picture

    for number in range(1, NUM_PATIENTS + 1):
        kind = "bacteria" if number % 2 else "virus"
        add(f"train/PNEUMONIA/person{number}_{kind}_{number}00.jpeg", colour=number % 5 == 0)
        add(f"train/PNEUMONIA/person{number}_{kind}_{number}01.jpeg")
        form = "IM-{:04}-0001" if number % 2 else "NORMAL2-IM-{:04}-0001-0002"
        add(f"train/NORMAL/{form.format(number)}.jpeg")
    for number in range(1, 6):
        # The same numbers as in train: other children.
        add(f"test/PNEUMONIA/person{number}_virus_{number}.jpeg")
        add(f"test/NORMAL/IM-{number:04}-0001.jpeg")
    add("val/NORMAL/NORMAL2-IM-1427-0001.jpeg")
    add("val/PNEUMONIA/person1946_bacteria_4874.jpeg")
    add(NAMELESS)

    root = folder / "chest_xray"
    broken = root / TRUNCATED
    broken.write_bytes(broken.read_bytes()[:900])
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "train/NORMAL/._IM-0001-0001.jpeg").write_bytes(b"\0\5\26\7")
    dropping = folder / "__MACOSX/chest_xray/train/NORMAL/IM-0001-0001.jpeg"
    dropping.parent.mkdir(parents=True)
    dropping.write_bytes(b"\0\5\26\7")
    return pictures

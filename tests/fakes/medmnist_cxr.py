"""MedMNIST's chest sets in miniature: compressed .npz files, labels [n 1] or [n 14].

Quirks: "val" instead of "validation"; a set without any positive in a part; another of MedMNIST's
files beside it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes.pictures import draw_image

LAYOUTS = {
    "pneumoniamnist": {},
    "chestmnist": {"name": "chestmnist"},
    "chestmnist_64 in a folder": {"name": "chestmnist_64", "place": "medmnist"},
}
SIZES = {"train": 6, "val": 3, "test": 4}
LABELS = {"pneumoniamnist": 1, "chestmnist": 14}


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    labels: tuple[int, ...]


def arrays(name: str = "pneumoniamnist") -> dict[str, np.ndarray]:
    """The arrays of one of MedMNIST's files by their keys."""
    subset, _, side = name.partition("_")
    side = int(side or 28)
    made = {}
    for offset, (part, size) in enumerate(SIZES.items()):
        pictures = [draw_image(100 * offset + i, side, side) for i in range(size)]
        labels = np.random.default_rng(offset).random((size, LABELS[subset])) < 0.4
        if part == "val":
            labels[:] = False
        made[f"{part}_images"] = np.stack(pictures)
        made[f"{part}_labels"] = labels.astype(np.uint8)
    return made


def write(folder: Path, *, name: str = "pneumoniamnist", place: str = "") -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the images by image id.

    Args:
      name: the file's name without suffix.
      place: a folder inside.
    """
    (folder / place).mkdir(parents=True, exist_ok=True)
    made = arrays(name)
    np.savez_compressed(folder / place / f"{name}.npz", **made)
    np.savez_compressed(folder / "breastmnist.npz", train_images=np.zeros((2, 28, 28), np.uint8))
    return {
        f"{part}/{index}": FakeImage(picture, tuple(int(value) for value in values))
        for part in SIZES
        for index, (picture, values) in enumerate(
            zip(made[f"{part}_images"], made[f"{part}_labels"])
        )
    }

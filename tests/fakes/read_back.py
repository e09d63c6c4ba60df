"""What tests ask of a built dataset beyond its examples' plain fields."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BoxFields = tuple[str, float, float, float, float]


def boxes_of(example: dict[str, Any]) -> list[BoxFields]:
    """The example's boxes: label, y0, x0, y1, x1, rounded as `rounded` does."""
    boxes = example["boxes"]
    labels = [label.decode() for label in boxes["label"]]
    return rounded(zip(labels, *(boxes[side] for side in ("y0", "x0", "y1", "x1"))))


def rounded(boxes: Iterable[BoxFields]) -> list[BoxFields]:
    """Boxes whose corners have four decimal places, which float32 keeps."""
    return [(label, *(round(float(corner), 4) for corner in corners)) for label, *corners in boxes]


def skipped_of(folder: Path) -> dict[str, str]:
    """File name without folders -> reason, from a build's skipped.csv."""
    with open(folder / "skipped.csv") as stream:
        return {row["file"].split("/")[-1]: row["reason"] for row in csv.DictReader(stream)}

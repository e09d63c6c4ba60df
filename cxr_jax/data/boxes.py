"""Boxes of a built dataset: where findings are on the square images."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from cxr_jax.data import images
from cxr_jax.data.dataset_info import open_built
from cxr_jax.data.reader import read_columns
from cxr_jax.data.schema import RESTORE
from cxr_jax.data.source import Source, load_source

_CORNERS = ("y0", "x0", "y1", "x1")


class Boxed(NamedTuple):
    """Boxes of a split; `boxes` are y0, x0, y1, x1 in fractions of the square image."""

    source: Source
    boxes: Float[np.ndarray, "n 4"]
    labels: tuple[str, ...]
    images: Int[np.ndarray, " n"]  # the position of each box's image in the split
    flat: int  # boxes left out because they have no area

    def image(self, box: int, size: int) -> UInt8[np.ndarray, "size size 1"]:
        """Returns the square image that a box is on."""
        return images.decode_square(self.source.records[int(self.images[box])]["image"], size)


def load_boxes(name: str, data_dir: str, split: str) -> Boxed:
    """Reads all boxes of a split.

    Raises:
      FileNotFoundError, ValueError: as load_source; or the dataset has no boxes, or none there.
    """
    source = load_source(name, data_dir, split, ("image",))
    if "boxes" not in source.fields:
        raise ValueError(
            f"dataset {name} has no boxes. Datasets under {Path(data_dir).resolve()} that have: "
            f"{', '.join(_with_boxes(data_dir)) or 'none'}. The drawn one has: "
            f"python -m data_builders.build phantom --data_dir={data_dir}"
        )
    corners, labels, owners = _read(source, split)
    whole = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    if not whole.any():
        counts = {other: len(_read(source, other)[0]) for other in source.splits}
        there = ", ".join(f"{other} {count:,}" for other, count in counts.items())
        raise ValueError(f"no image of {name} {split!r} has a box; boxes in its splits: {there}")
    corners, owners = corners[whole], owners[whole]
    sizes = {
        image: images.stored_size(source.records[image]["image"]) for image in set(owners.tolist())
    }
    square = [
        images.to_square(box[None], *sizes[image]) for box, image in zip(corners, owners.tolist())
    ]
    kept = tuple(label for label, keep in zip(labels, whole) if keep)
    return Boxed(source, np.concatenate(square), kept, owners, int((~whole).sum()))


def _read(
    source: Source, split: str
) -> tuple[Float[np.ndarray, "n 4"], list[str], Int[np.ndarray, " n"]]:
    """Reads the corners in fractions of the stored images, the labels, and the images' rows."""
    columns = read_columns(
        open_built(source.folder), split, [f"boxes/{part}" for part in (*_CORNERS, "label")]
    )
    labels = columns["boxes/label"]
    counts = [[len(of_image) for of_image in column] for column in columns.values()]
    if any(count != counts[0] for count in counts):
        raise ValueError(f"{source.folder}: an image's boxes lack corners or labels. {RESTORE}")
    images = np.repeat(np.arange(len(labels)), [len(of_image) for of_image in labels])
    corners = [np.concatenate([*columns[f"boxes/{part}"], []]) for part in _CORNERS]
    return np.stack(corners, axis=-1), [label for of_image in labels for label in of_image], images


def _with_boxes(data_dir: str) -> list[str]:
    """Lists the built datasets that have boxes, as --dataset names them."""
    found = {}
    for info in Path(data_dir).expanduser().glob("*/*/*.*.*/features.json"):
        name, form, version = info.parts[-4:-1]
        if "incomplete" not in version:
            with contextlib.suppress(ValueError, FileNotFoundError):  # damaged: not offered
                features = open_built(info.parent).info.features
                found.setdefault(name, {})[form] = "boxes" in features
    return [
        name if len(forms) == 1 else f"{name}/{form}"
        for name, forms in sorted(found.items())
        for form, boxes in sorted(forms.items())
        if boxes
    ]

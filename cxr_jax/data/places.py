"""Where findings and organs are on the images of a labelled split: masks and boxes."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from cxr_jax.data import images, tasks
from cxr_jax.data.dataset_info import RESTORE, open_built
from cxr_jax.data.reader import Records
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.io.limits import ImageError


class Masked(NamedTuple):
    """The masks of n images, m names.

    `known`: whether the image has a mask of that name, which may be empty. `inside` [n side side m]
    is the share of each pixel within, 0 to 255; `sizes` are the stored images' height and width;
    `digest` is a hash of the masks as they are stored.
    """

    names: tuple[str, ...]
    known: Bool[np.ndarray, "n m"]
    inside: UInt8[np.ndarray, "n side side m"]
    sizes: Int[np.ndarray, "n 2"]
    digest: bytes = b""

    @property
    def marked(self) -> Bool[np.ndarray, "n m"]:
        """Whether any pixel is within."""
        return (self.inside >= 128).any(axis=(1, 2))


def load_masks(split: LabelledSplit, side: int, fit: str) -> Masked:
    """Reads the masks of a split's images on squares of `side` pixels, `fit` as images are.

    Raises ValueError where the dataset has none, and, naming the image's place in the split and the
    mask, for one that is not as large as its image or cannot be decoded.
    """
    source, names = split.source, tuple(split.source.metadata.get("mask_names", ()))
    if "masks" not in source.fields or not names:
        raise ValueError(
            f"dataset {source.name} has no masks. The drawn one has: python -m data_builders.build "
            f"phantom --data_dir={source.folder.parents[2]}; build a dataset with masks again if "
            "it was built by an older version"
        )
    known = np.zeros((len(split.rows), len(names)), bool)
    inside = np.zeros((len(split.rows), side, side, len(names)), np.uint8)
    sizes, digest = np.zeros((len(split.rows), 2), int), hashlib.sha256()
    for place, record in _records(split, "masks"):
        where = f"{source.name} {source.split!r}, image {split.rows[place]}"
        sizes[place] = size = images.stored_size(record["image"])
        for name, mask in zip(_words(record["masks"]["label"]), record["masks"]["mask"]):
            if name not in names:
                raise ValueError(
                    f"{where}: a mask of {name!r}, which metadata.json lacks. {RESTORE}"
                )
            pixels = decode_mask(mask, size, side, fit, f"{where}: its mask of {name!r}")
            column = names.index(name)
            known[place, column], inside[place, ..., column] = True, pixels
            digest.update(f"{place} {column} {len(mask)} ".encode() + mask)
    if not known.any():
        raise ValueError(
            f"no image of {source.name} {source.split!r} has a mask: the owner's were not beside "
            f"the images when it was built (data_builders/{source.folder.parts[-3]}/README.md)"
        )
    return Masked(names, known, inside, sizes, digest.digest())


def decode_mask(
    mask: bytes, image_size: tuple[int, int], side: int, fit: str, what: str
) -> UInt8[np.ndarray, "side side"]:
    """Returns a stored mask on a square, as its image is brought there.

    Raises ValueError, with `what` it is, for one that is damaged or not as large as its image.
    """
    try:
        height, width = images.stored_size(mask)
        if (height, width) != image_size:
            raise ValueError(
                f"{what} has {height} x {width} pixels, the image {image_size[0]} x "
                f"{image_size[1]}: it is another image's. {RESTORE}"
            )
        return images.decode_square(mask, side, fit)[..., 0]
    except ImageError as error:
        raise ValueError(f"{what} is damaged ({error}). {RESTORE}") from error


def load_boxes(
    split: LabelledSplit, places: Sequence[tuple[int, int]]
) -> list[Float[np.ndarray, "n 4"]]:
    """Returns the boxes (y0, x0, y1, x1) of each (row, label), in fractions of the square image.

    Boxes count whose label is the task's or one that it is made of. A dataset may have none.
    """
    fit = split.source.fit
    return [images.to_square(boxes, *size, fit) for boxes, size in _stored_boxes(split, places)]


def load_central_boxes(
    split: LabelledSplit, places: Sequence[tuple[int, int]]
) -> list[tuple[Float[np.ndarray, "n 4"], tuple[float, float, float, float]]]:
    """Returns the boxes as clipped to the image's central square, in fractions of it.

    Beside them: where that square lies on the one that encoders read. Boxes outside are left out.
    """
    found = []
    for boxes, size in _stored_boxes(split, places):
        clipped = np.clip(images.to_square(boxes, *size, "crop"), 0, 1)
        inside = (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
        found.append((clipped[inside], central(*size, split.source.fit)))
    return found


def _stored_boxes(
    split: LabelledSplit, places: Sequence[tuple[int, int]]
) -> list[tuple[Float[np.ndarray, "n 4"], tuple[int, int]]]:
    """Returns boxes in fractions of the stored image, and its height and width."""
    if "boxes" not in split.source.fields:
        return [(np.zeros((0, 4)), (1, 1))] * len(places)
    wanted = sorted({row for row, _ in places})
    held = {
        wanted[k]: (record["boxes"], images.stored_size(record["image"]))
        for k, record in _records(split.take(np.array(wanted, int)), "boxes")
    }
    found = []
    for row, label in places:
        (boxes, size), name = held[row], split.label_names[label]
        terms = tasks.parse(split.task.labels[name], split.source.label_names)
        known = {name, *(term.label for term in terms if not term.negated)}
        every = any(term.negated for term in terms)  # "not No Finding": any finding's box
        keep = [k for k, one in enumerate(_words(boxes["label"])) if every or one in known]
        corners = np.stack(
            [np.asarray(boxes[c], float)[keep] for c in ("y0", "x0", "y1", "x1")], -1
        )
        found.append((corners, size))
    return found


def central(height: int, width: int, fit: str) -> tuple[float, float, float, float]:
    """Returns where an image's central square (y0, x0, y1, x1) lies on the square of `fit`.

    >>> central(100, 200, "crop"), central(100, 200, "pad"), central(100, 200, "squash")
    ((0.0, 0.0, 1.0, 1.0), (0.25, 0.25, 0.75, 0.75), (0.0, 0.25, 1.0, 0.75))
    """
    side = min(height, width)
    y0, x0 = (height - side) / 2 / height, (width - side) / 2 / width
    box = images.to_square(np.array([[y0, x0, 1 - y0, 1 - x0]]), height, width, fit)
    return tuple(map(float, box[0]))


def _records(split: LabelledSplit, field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields each image's place and its record of image and `field`."""
    source = split.source
    records = Records(open_built(source.folder), source.split, ("image", field))
    for place, row in enumerate(split.rows):
        yield place, records[int(row)]


def _words(labels: Sequence[Any]) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else str(one) for one in labels]

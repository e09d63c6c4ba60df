"""Images with another image of the same study or patient, for MedAug (arXiv:2102.10663)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cxr_jax.data import order
from cxr_jax.data.dataset_info import open_built
from cxr_jax.data.reader import read_columns
from cxr_jax.data.source import Source

OF = ("study", "patient")


class Partners(NamedTuple):
    """The images of a source by group: those of image i's are the `size[i]` from `first[i]` on.

    A group is a patient's study, or all of a patient. Image i itself is number `place[i]` of its
    group; of an image whose group is unknown it is the only one.
    """

    images: Int[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]

    def draw(self, seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Draws partners for the images at the positions [start, stop) of order.rows.

        Returns {"pair": int32 [b], the rows of the partners, "paired": bool [b]}. A partner is
        drawn for its position from the other images of the group; an image without others is its
        own partner, and not "paired".
        """
        count = len(self.images)
        rows = order.rows(count, seed, start, stop)
        size = self.size[rows]
        # Round the group: from the next image to the one before.
        ahead = 1 + (order.numbers(count, seed, start, stop) * (size - 1)).astype(np.int32)
        pair = self.images[self.first[rows] + (self.place[rows] + ahead) % size]
        return {"pair": pair, "paired": pair != rows}


def find_partners(source: Source, of: str) -> Partners:
    """Partners within the same "study" or "patient", read from the dataset's examples.

    Raises:
      ValueError: `of` is neither, or no group has two images, so that there would be no pair at all.
    """
    if of not in OF:
        raise ValueError(f"config.data.pairs={of!r}: choose {' or '.join(OF)}, or '' for no pairs")
    builder = open_built(source.folder)
    names = ("patient_id", "study_id")[: 2 if of == "study" else 1]
    columns = read_columns(builder, source.split, names)
    found = by_group(*([column[row] for row in source.rows] for column in columns.values()))
    if (found.size == 1).all():
        other = "; config.data.pairs=patient pairs images of a patient" if of == "study" else ""
        raise ValueError(
            f"no {of} of {source.name} {source.split!r} has two images (or which image is whose is "
            f"not known): there is no other image to pair one with{other}; "
            "config.objective.name=moco with config.data.pairs='' needs none"
        )
    return found


def by_group(*names: Sequence[str]) -> Partners:
    """Of what images of a group have in common (patients, studies), image by image; "" if unknown."""
    keys = [image if all(image) else row for row, image in enumerate(zip(*names, strict=True))]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    study = np.array([numbers[key] for key in keys], np.int32)
    images = np.argsort(study, kind="stable").astype(np.int32)
    sizes = np.bincount(study).astype(np.int32)
    first = (np.cumsum(sizes, dtype=np.int32) - sizes)[study]
    place = np.empty_like(images)
    place[images] = np.arange(len(images), dtype=np.int32)
    return Partners(images, first, place - first, sizes[study])

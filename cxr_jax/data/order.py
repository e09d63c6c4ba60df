"""The endless order in which training sees images, by seed and position alone, and what it draws.

Partners are other images of the same study or patient, for MedAug (arXiv:2102.10663).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cxr_jax.data.source import Source

OF = ("study", "patient")  # what two images of a pair may have in common


def rows(count: int, seed: int, start: int, stop: int) -> Int[np.ndarray, " n"]:
    """Returns the rows at the positions [start, stop): every epoch is a new permutation.

    >>> rows(count=4, seed=0, start=0, stop=8)
    array([2, 0, 1, 3, 3, 0, 2, 1], dtype=int32)
    """
    return _piece(_permutation, count, seed, start, stop)


def numbers(count: int, seed: int, start: int, stop: int) -> Float[np.ndarray, " n"]:
    """Returns a random number in [0, 1) for each of the positions [start, stop)."""
    return _piece(_uniform, count, seed, start, stop)


def _piece(
    of_epoch: Callable[[int, int, int], np.ndarray], count: int, seed: int, start: int, stop: int
) -> np.ndarray:
    first = start // count
    epochs = [of_epoch(count, seed, epoch) for epoch in range(first, -(-stop // count))]
    return np.concatenate(epochs)[start - first * count : stop - first * count]


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)


@functools.lru_cache(maxsize=4)
def _uniform(count: int, seed: int, epoch: int) -> Float[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch, 1)).random(count)  # independent of _permutation's


class Fields(NamedTuple):
    """Fields of batches besides "image", for the images of one source.

    draw: (seed, start, stop) -> name -> array: the values for the images at the positions
      [start, stop) of `rows`; of a field that is an image, its row in the source.
    """

    draw: Callable[[int, int, int], dict[str, np.ndarray]] | None = None
    images: tuple[str, ...] = ("image",)  # the fields that are images
    fingerprint: Mapping[str, str] = {}  # equal on all hosts of a run
    files: Mapping[str, str] = {}  # name -> text: files of the workdir, found there on resuming

    def batch(self, count: int, seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Returns the batch of these positions, of images their rows among the `count`."""
        images = {"image": rows(count, seed, start, stop)}
        return images | self.draw(seed, start, stop) if self.draw else images

    def image_rows(self, count: int, seed: int, start: int, stop: int) -> Int[np.ndarray, " n"]:
        """Returns the rows of all images of that batch, of several fields each row once."""
        batch = self.batch(count, seed, start, stop)
        of_images = [batch[name] for name in self.images]
        if len(of_images) == 1:
            return of_images[0]
        return np.array(list(dict.fromkeys(np.concatenate(of_images).tolist())))


NO_FIELDS = Fields()


class Partners(NamedTuple):
    """The images of a source by group: image i's group has the `size[i]` from `first[i]` on.

    Image i itself is number `place[i]` of its group, and alone in it where the group is unknown.
    """

    images: Int[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]

    def draw(self, seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Draws for each position in [start, stop) of rows another image of its image's group.

        Returns {"pair": int32 [b], the partners' rows, "paired": bool [b]}; an image without others
        is its own partner, and not "paired".
        """
        count = len(self.images)
        own = rows(count, seed, start, stop)
        size = self.size[own]
        # Round the group: from the next image to the one before.
        ahead = 1 + (numbers(count, seed, start, stop) * (size - 1)).astype(np.int32)
        pair = self.images[self.first[own] + (self.place[own] + ahead) % size]
        return {"pair": pair, "paired": pair != own}


def find_partners(source: Source, of: str) -> Partners:
    """Finds partners of one "study" or "patient"; ValueError where no group has two images."""
    if of not in OF:
        raise ValueError(f"config.data.pairs={of!r}: choose {' or '.join(OF)}, or '' for no pairs")
    names = ("patient_id", "study_id")[: 2 if of == "study" else 1]
    found = by_group(*source.columns(names).values())
    if (found.size == 1).all():
        other = "; config.data.pairs=patient pairs images of a patient" if of == "study" else ""
        raise ValueError(
            f"no {of} of {source.name} {source.split!r} has two images (or which image is whose is "
            f"not known): there is no other image to pair one with{other}; "
            "config.objective.name=moco with config.data.pairs='' needs none"
        )
    return found


def by_group(*names: Sequence[str]) -> Partners:
    """Groups images by the names (patients, studies) that they share; "" is unknown."""
    keys = [image if all(image) else row for row, image in enumerate(zip(*names, strict=True))]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    study = np.array([numbers[key] for key in keys], np.int32)
    images = np.argsort(study, kind="stable").astype(np.int32)
    sizes = np.bincount(study).astype(np.int32)
    first = (np.cumsum(sizes, dtype=np.int32) - sizes)[study]
    place = np.empty_like(images)
    place[images] = np.arange(len(images), dtype=np.int32)
    return Partners(images, first, place - first, sizes[study])

"""The endless order in which training sees images: by seed and position alone, whoever asks."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


def rows(count: int, seed: int, start: int, stop: int) -> Int[np.ndarray, " n"]:
    """The rows, of `count`, at the positions [start, stop): every epoch is a permutation anew."""
    return _piece(_permutation, count, seed, start, stop)


def numbers(count: int, seed: int, start: int, stop: int) -> Float[np.ndarray, " n"]:
    """A random number in [0, 1) for each of the positions [start, stop), for a choice there."""
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
    """What batches hold besides "image", of the images of one source.

    draw: (seed, start, stop) -> name -> array: the values for the images at the positions
      [start, stop) of `rows`; of a field that is an image, its row in the source.
    images: which fields are images.
    fingerprint: field -> value, equal on all hosts of a run.
    files: name -> text: files that a run keeps in its workdir, to find them when it goes on.
    """

    draw: Callable[[int, int, int], dict[str, np.ndarray]] | None = None
    images: tuple[str, ...] = ("image",)
    fingerprint: Mapping[str, str] = {}
    files: Mapping[str, str] = {}

    def batch(self, count: int, seed: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Returns the batch of these positions, of images their rows among the `count`."""
        images = {"image": rows(count, seed, start, stop)}
        return images | self.draw(seed, start, stop) if self.draw else images

    def image_rows(self, count: int, seed: int, start: int, stop: int) -> Int[np.ndarray, " n"]:
        """Returns the rows of all images of that batch; each once, where several fields are images."""
        batch = self.batch(count, seed, start, stop)
        of_images = [batch[name] for name in self.images]
        if len(of_images) == 1:
            return of_images[0]
        return np.array(list(dict.fromkeys(np.concatenate(of_images).tolist())))


NO_FIELDS = Fields()

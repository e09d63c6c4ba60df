"""The endless order in which training sees images: by seed and position alone, whoever asks."""

import functools
from collections.abc import Callable

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

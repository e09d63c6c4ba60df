"""The endless order in which training sees films: by seed and position alone, whoever asks."""

import functools

import numpy as np
from jaxtyping import Int


def rows(count: int, seed: int, start: int, stop: int) -> Int[np.ndarray, " n"]:
    """The rows, of `count`, at the positions [start, stop): every epoch is a permutation anew."""
    first = start // count
    epochs = [_epoch(count, seed, epoch) for epoch in range(first, -(-stop // count))]
    return np.concatenate(epochs)[start - first * count : stop - first * count]


@functools.lru_cache(maxsize=4)
def _epoch(count: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)

"""Rivals timed in turns on one machine, so that what else it does slows all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one rival's repetitions, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median."""
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float((high - low) / self.median)


def in_turns(rivals: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, Timing]:
    """Calls every rival once per repetition, the order reversed each time.

    A rival must have returned only when its work is done: on a GPU it fetches a result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    for _ in range(repetitions):
        for name in names:
            start = time.perf_counter()
            rivals[name]()
            seconds[name].append(time.perf_counter() - start)
        names.reverse()
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median over pairs of repetitions of how many times longer the first took."""
    return float(np.median(np.divide(slower, faster)))

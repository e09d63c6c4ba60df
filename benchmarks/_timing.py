"""Wall time of rivals in turns, and CPU time of a process and those it started."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_TICKS = os.sysconf("SC_CLK_TCK")
_LONG = 5.0  # seconds without a word that make one wonder
_QUIET = 0.3  # seconds with next to no work: whatever runs ahead has filled its buffers


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
    """Calls every rival once per repetition, the order reversed each time; long ones are told.

    A rival must have returned only when its work is done: on a GPU it fetches a result.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    for turn in range(repetitions):
        for name in names:
            start = time.perf_counter()
            rivals[name]()
            seconds[name].append(time.perf_counter() - start)
        whole = sum(taken[-1] for taken in seconds.values())
        if whole > _LONG:
            print(f"turn {turn + 1} of {repetitions}  {whole:,.0f} s", flush=True)
        names.reverse()
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median over pairs of repetitions of how many times longer the first took."""
    return float(np.median(np.divide(slower, faster)))


def family_seconds() -> float:
    """CPU seconds of this process and all its living descendants so far."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces.
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        seconds[process] = (int(fields[11]) + int(fields[12])) / _TICKS
    family = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(seconds[process] for process in family)


def settle(patience: float = 60.0) -> float:
    """Waits until the family rests; returns its CPU seconds then.

    Raises TimeoutError if it works on.
    """
    end, last = time.monotonic() + patience, family_seconds()
    while time.monotonic() < end:
        time.sleep(_QUIET)
        now = family_seconds()
        if now - last < 0.1 * _QUIET:
            return now
        last = now
    raise TimeoutError(f"processes of this benchmark still work after {patience:.0f} s")

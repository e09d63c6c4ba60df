"""CPU time of this process and those it started, which other programs' load leaves alone."""

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET = 0.3  # seconds with next to no work: whatever runs ahead has filled its buffers


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

"""Calls in a process that may not grow: what a bomb would allocate shows as a MemoryError there.

Bombs are small files that claim or unfold to gigabytes. All are read in one process that may grow
by 256 MB, a tenth of what the smallest would take.
"""

import ctypes
import importlib
import multiprocessing
import os
import resource
import struct
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.containers import png_chunk

EXTRA_BYTES = 256 << 20
MODULES = (
    *("cxr_jax.data.images", "cxr_jax.weights.arrays", "cxr_jax.io.image_io"),
    *("data_builders.base.csv_table", "data_builders.indiana_university.reports", "pydicom.pixels"),
    *("data_builders.jsrt.jsrt_dataset_builder", "tests.faults.readers"),
    "data_builders.medmnist_cxr.medmnist_cxr_dataset_builder",
)


class Answer(NamedTuple):
    """Result of a call.

    Attributes:
      error: the exception's type and text; "" where there was none.
      memory: bytes by which the process grew at most.
    """

    result: Any
    error: str
    memory: int


class LimitedProcess:
    """A process that has imported `modules` and may then take `extra_bytes` more, address space
    included; `ask` calls a function of theirs in it."""

    def __init__(self, modules: Sequence[str], extra_bytes: int):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, modules, extra_bytes))
        self._process.start()
        theirs.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Answer:
        """Raises EOFError where the process died of it."""
        self._connection.send((function, arguments))
        if not self._connection.poll(120):
            self._process.kill()
        return self._connection.recv()

    def close(self) -> None:
        if self._process.is_alive():
            self._connection.send(None)
        self._process.join()


def _serve(connection: Connection, modules: Sequence[str], extra_bytes: int) -> None:
    for module in modules:
        importlib.import_module(module)
    limit = address_space() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    while (asked := connection.recv()) is not None:
        function, arguments = asked
        before, result, text = restart_memory(), None, ""
        try:
            result = function(*arguments)
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        connection.send(Answer(result, text, peak_memory() - before))


def address_space() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def few_arenas() -> None:
    """Keeps threads from reserving 64 MB of address space each, of which most is never used."""
    m_arena_max = -8
    ctypes.CDLL(None).mallopt(m_arena_max, 2)


def restart_memory() -> int:
    """Makes the kernel count this process's largest size anew; bytes that it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Returns the largest size of this process since `restart_memory`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def assert_refused(process, message, function, *arguments):
    """Checks that the call ends in an error of ours with `message`, allocating nearly nothing."""
    answer = process.ask(function, *arguments)
    kind, _, text = answer.error.partition(": ")
    assert kind in ("ImageError", "BuildError", "ValueError"), answer
    assert message in text
    assert answer.memory < 64 << 20


def png(width, height, *chunks, depth=8, colour=0):
    """Returns a PNG that claims any size, with these chunks between its header and its end."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    ends = (*chunks, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(ends)


def zeros(megabytes):
    """Deflated zeros: a thousandth of what they unfold to."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(megabytes)] + [packer.flush()])


def pixels(content):
    return png_chunk(b"IDAT", content)

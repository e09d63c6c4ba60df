"""Images read, shrunk, encoded and hashed on all cores, in order, with memory bounded."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from tqdm import tqdm

from cxr_jax.io import end_with_parent, image_io
from data_builders.base import masks
from data_builders.base.records import BuildError

Tag = TypeVar("Tag")
Item = TypeVar("Item")
Result = TypeVar("Result")

# Images per task: enough that passing them costs nothing, few enough that no core waits at the end.
CHUNK = 8


class EncodedImage(NamedTuple):
    """An image ready to be stored: encoded bytes, perceptual hash (16 hex digits), its masks.

    `refused` says why it has no masks although there are files of them; "" otherwise.
    """

    image: bytes
    phash: str
    masks: tuple[tuple[str, bytes], ...] = ()
    refused: str = ""


class ToRead(NamedTuple):
    """An image that is to be read, and what gives its masks."""

    image: Path | Callable[[], np.ndarray]
    masks: Callable[[], masks.Masks] | None = None

    def __str__(self) -> str:  # for messages
        return str(self.image)


class Unreadable(NamedTuple):
    """An image that gives no example, with the reason."""

    reason: str


def prepare_image(
    source: Path | Callable[[], np.ndarray] | ToRead, resolution: int | None, encoding: str
) -> EncodedImage | Unreadable:
    """Reads (or draws) one image, shrinks its shorter side to `resolution`, encodes and hashes.

    Its masks are brought to the same pixels; an image whose masks cannot be is kept without them.
    """
    source, given = source if isinstance(source, ToRead) else (source, None)
    try:
        if callable(source):
            image = source()
            image = image[..., None] if image.ndim == 2 else image
        else:
            image = image_io.read_image(source, shorter_side=resolution)
        image = image_io.shrink(image, resolution)
    except image_io.ImageError as error:
        return Unreadable(str(error))
    found, refused = (), ""
    try:
        found = masks.encode(given(), image) if given else ()
    except image_io.ImageError as error:
        refused = f"kept without masks: {error}"
    return EncodedImage(image_io.encode(image, encoding), phash(image), found, refused)


def phash(image: UInt8[np.ndarray, "h w 1"]) -> str:
    """Hashes an image to 16 hex digits, most significant bit first (row 0, column 0).

    The image is averaged down to 32 x 32, cosine-transformed, and each of the 8 x 8 lowest
    frequencies gives a bit: above the median of the 64 or not (Zauner 2010, section 3.2.1).
    """
    small = Image.fromarray(image[..., 0]).resize((32, 32), Image.Resampling.BOX)
    basis = _dct_basis()
    low = basis @ np.asarray(small, np.float64) @ basis.T
    bits = (low > np.median(low)).ravel()
    return np.packbits(bits).tobytes().hex()


@functools.cache
def _dct_basis() -> Float64[np.ndarray, "8 32"]:
    """Returns the first 8 rows of the orthonormal DCT-II of length 32."""
    frequency, position = np.mgrid[:8, :32]
    basis = np.cos(np.pi * frequency * (2 * position + 1) / 64) * np.sqrt(2 / 32)
    basis[0] /= np.sqrt(2)
    return basis


def parallel_map(
    function: Callable[[Item], Result],
    items: Iterable[tuple[Tag, Item]],
    num_workers: int | None = None,
) -> Iterator[tuple[Tag, Result]]:
    """Yields (tag, function(item)) in the order of `items`, computed in `num_workers` processes.

    Only a window of items is in flight, however long the list. Workers come from a fork server,
    so a parent with threads (JAX) is safe; `function` and the items must be picklable.

    Args:
      function: its errors end the build; it must return, not raise, what is expected.
      items: pairs of a tag, which stays in this process, and an item, which is sent to another.
      num_workers: None takes all cores; 0 computes in this process.

    Raises BuildError: a worker died (out of memory, a crash in a decoder).
    """
    workers = available_cores() if num_workers is None else num_workers
    if workers == 0:
        for tag, item in items:
            yield tag, function(item)
        return
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["data_builders.base.parallel"])
    in_flight: collections.deque[tuple[list[Any], list[Any], concurrent.futures.Future]]
    in_flight = collections.deque()
    iterator = iter(items)
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_follow_parent
    ) as pool:
        try:
            while True:
                while len(in_flight) < 4 * workers and (
                    chunk := list(itertools.islice(iterator, CHUNK))
                ):
                    tags, values = [tag for tag, _ in chunk], [item for _, item in chunk]
                    with _uninterrupted():
                        future = pool.submit(_map_chunk, function, values)
                    in_flight.append((tags, values, future))
                if not in_flight:
                    return
                tags, values, future = in_flight.popleft()
                yield from zip(tags, future.result(), strict=True)
        except BrokenProcessPool as error:
            raise BuildError(
                "A process that reads images died, out of memory or in a decoder. It was reading "
                f"one of: {', '.join(str(value) for value in values)}, or one of the few images "
                "after them. Try --num_workers=1, or remove the file."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays SIGINT and SIGTERM to its end.

    One that raises while `submit` starts a worker leaves a worker that the pool does not know. It
    takes the word to end from another, for which the pool then waits without end.
    """
    arrived: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: it for number, it in handlers.items() if it is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _: arrived.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def _map_chunk(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def _follow_parent() -> None:
    """Leaves interrupts to the parent, and ends this process when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def available_cores() -> int:
    """Counts the cores this process may run on: in a container fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress(name: str, total: int, shown: bool = True) -> tqdm:
    """Shows a line on stderr: how many of how many images, images/s, time left."""
    # A log file is not filled with what a terminal's line shows.
    pause = 0.5 if sys.stderr.isatty() else 10.0
    unit = " images"
    return tqdm(desc=name, total=total, unit=unit, mininterval=pause, miniters=1, disable=not shown)

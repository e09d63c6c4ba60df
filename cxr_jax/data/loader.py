"""Loads endless shuffled batches for training, or all images into memory.

The iterator's state is a small JSON document that counts batches, the same for every block and any
number of them, so that a checkpoint can put the data back exactly where it was.
"""

import collections
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int, UInt8

from cxr_jax.data import images, order
from cxr_jax.data.order import NO_FIELDS, Fields
from cxr_jax.data.source import Source
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.io import end_with_parent

_CHUNK = 16  # images that a thread decodes at a time
_SHARE = 0.8  # of free memory that a cache may take: the rest is the model's, or other programs'
_QUIET_SECONDS = 5.0
_BLOCK = 256  # images after which a cache looks whether it is still wanted

Rows = Int[np.ndarray, " n"]


def batches(
    source: Source,
    batch_size: int,
    image_size: int,
    seed: int,
    num_workers: int = 0,
    block: int = 0,
    blocks: int = 1,
    fields: Fields = NO_FIELDS,
) -> grain.DatasetIterator:
    """Iterates endlessly over {"image": uint8 [batch_size / blocks, image_size, image_size, 1]}.

    Batches also hold what `fields` draws, images decoded likewise. Each epoch is shuffled anew. Of
    each batch, this is block number `block` of `blocks` equal ones of consecutive rows (they must
    divide it): row r of batch k is the same image however many hosts share the batch.
    `num_workers` processes read and decode a batch each; 0: threads do, all on the same batch.

    Raises ValueError for a batch larger than the dataset.
    """
    _check(source, batch_size)
    make = partial(_batch, source, image_size, fields, seed, not num_workers)
    return _iterate(make, batch_size, num_workers, block, blocks)


def row_batches(
    source: Source,
    batch_size: int,
    seed: int,
    block: int = 0,
    blocks: int = 1,
    fields: Fields = NO_FIELDS,
) -> grain.DatasetIterator:
    """Iterates as `batches`, with images' rows in the source for images; see `look_up`."""
    _check(source, batch_size)
    make = partial(fields.batch, len(source), seed)
    return _iterate(make, batch_size, 0, block, blocks)


def look_up(rows: dict[str, Any], fields: Fields, images: Callable[[Any], Any]) -> dict[str, Any]:
    """Returns the batch of what `row_batches` gives; `images` maps rows to the images there."""
    return {name: images(of) if name in fields.images else of for name, of in rows.items()}


def labelled_batches(
    split: LabelledSplit, batch_size: int, image_size: int, seed: int, num_workers: int = 0
) -> grain.DatasetIterator:
    """Iterates endlessly over {"image": uint8 [b size size 1], "target": float32 [b k]}.

    Batches run on over an epoch's end, so that every epoch holds every image once; a batch larger
    than the split holds images of several epochs. Workers as of `batches`.
    """
    make = partial(_labelled_batch, split, image_size, seed, not num_workers)
    return _iterate(make, batch_size, num_workers)


def _check(source: Source, batch_size: int) -> None:
    if batch_size > len(source):
        raise ValueError(
            f"config.batch_size={batch_size} is larger than the {len(source)} images of "
            f"{source.name} {source.split!r}: a batch would hold an image twice. Lower it."
        )


def _iterate(
    make: Callable[[int, int], Any],
    batch_size: int,
    num_workers: int,
    block: int = 0,
    blocks: int = 1,
) -> grain.DatasetIterator:
    """Iterates over make(start, stop) of each batch's positions; Grain counts, and reads ahead.

    A whole batch is one element to Grain, whose work for each would else cost as much as decoding.
    """
    element = partial(_element, make, batch_size, block, blocks, bool(num_workers))
    numbers = grain.MapDataset.range(sys.maxsize // batch_size).map(element)
    ahead = 0 if num_workers else 1
    iterable = numbers.to_iter_dataset(grain.ReadOptions(ahead, 2 * ahead))
    if num_workers:
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(iterable)


# Functions of this module, not closures: worker processes get them by pickle.


def _element(
    make: Callable[[int, int], Any],
    batch_size: int,
    block: int,
    blocks: int,
    in_worker: bool,
    number: int,
) -> Any:
    if in_worker:
        end_with_parent()
    size = batch_size // blocks
    start = number * batch_size + block * size
    return make(start, start + size)


def _batch(
    source: Source,
    image_size: int,
    fields: Fields,
    seed: int,
    threaded: bool,
    start: int,
    stop: int,
) -> dict[str, np.ndarray]:
    rows = fields.batch(len(source), seed, start, stop)
    return look_up(rows, fields, partial(read_images, source, image_size, threaded))


def _labelled_batch(
    split: LabelledSplit, image_size: int, seed: int, threaded: bool, start: int, stop: int
) -> dict[str, np.ndarray]:
    rows = order.rows(len(split.rows), seed, start, stop)
    images = read_images(split.source, image_size, threaded, split.rows[rows])
    return {"image": images, "target": np.asarray(split.targets[rows], np.float32)}


def read_images(
    source: Source, image_size: int, threaded: bool, rows: Rows
) -> UInt8[np.ndarray, "n s s 1"]:
    """Decodes these rows' images; ValueError names the place of one that cannot be decoded."""
    originals = np.empty((len(rows), image_size, image_size, 1), np.uint8)
    encoded = source.encoded(rows)

    def fill(start: int) -> None:
        for place in range(start, min(start + _CHUNK, len(rows))):
            try:
                originals[place] = images.decode_square(encoded[place], image_size, source.fit)
            except (OSError, ValueError) as error:
                raise source.damaged(rows[place], error) from error

    chunks = range(0, len(rows), _CHUNK)
    collections.deque(_threads().map(fill, chunks) if threaded else map(fill, chunks), maxlen=0)
    return originals


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Returns the decoding threads: decoders release Python's lock, so that they use all cores."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")


def decode_all(
    source: Source, image_size: int, say: Callable[[str], None], stopped: threading.Event
) -> UInt8[np.ndarray, "n size size 1"]:
    """Decodes all images of a source; InterruptedError once `stopped` is set, as read_images."""
    images = np.empty((len(source), image_size, image_size, 1), np.uint8)
    start = reported = time.monotonic()
    for first in range(0, len(source), _BLOCK):
        if stopped.is_set():
            raise InterruptedError("the images are not wanted any more")
        rows = np.arange(first, min(first + _BLOCK, len(source)))
        images[rows] = read_images(source, image_size, True, rows)
        now, done = time.monotonic(), first + len(rows)
        if now - reported > _QUIET_SECONDS:
            rate = done / (now - start)
            say(
                f"  cache: {done:,} of {len(source):,} images  {rate:,.0f} images/s  "
                f"{(len(source) - done) / rate:.0f} s left"
            )
            reported = now
    return images


def check_fits(num_images: int, image_size: int, free: int, where: str) -> None:
    """Raises ValueError if the images need more than 80 % of `free` bytes."""
    needed = num_images * image_size**2
    if needed > _SHARE * free:
        raise ValueError(
            f"config.data.cache={where}: {num_images:,} images of {image_size} px need "
            f"{needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free, of which {_SHARE:.0%} may be "
            "used. Lower config.data.image_size or leave config.data.cache=none"
        )


def free_memory(where: str) -> int:
    """Returns the bytes free on the "host" or on each "device", which on a CPU is the host."""
    if where == "device":
        import jax  # not above: processes that decode images import this module

        sizes = [device.memory_stats() for device in jax.local_devices()]
        if all(sizes):
            return min(size["bytes_limit"] - size["bytes_in_use"] for size in sizes)
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024

"""Decodes all images of a dataset once, for training that then reads memory alone."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import UInt8

from cxr_jax.data import loader
from cxr_jax.data.source import Source

# Of what is free: the rest is the model's, or other programs'.
_SHARE = 0.8
_QUIET_SECONDS = 5.0
_BLOCK = 256  # images after which it looks whether it is still wanted


def decode_all(
    source: Source, image_size: int, say: Callable[[str], None], stopped: threading.Event
) -> UInt8[np.ndarray, "n size size 1"]:
    """Decodes all images of a source, as training without a cache does.

    Raises InterruptedError once `stopped` is set, ValueError as pipeline.read_images.
    """
    images = np.empty((len(source), image_size, image_size, 1), np.uint8)
    start = reported = time.monotonic()

    for first in range(0, len(source), _BLOCK):
        if stopped.is_set():
            raise InterruptedError("the images are not wanted any more")
        rows = np.arange(first, min(first + _BLOCK, len(source)))
        images[rows] = loader.read_images(source, image_size, True, rows)
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
    """Raises ValueError, with the sizes, if the images need more than 80 % of `free` bytes."""
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
        sizes = [device.memory_stats() for device in jax.local_devices()]
        if all(sizes):
            return min(size["bytes_limit"] - size["bytes_in_use"] for size in sizes)
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024

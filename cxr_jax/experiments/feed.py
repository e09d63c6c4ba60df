"""Batches for pretraining on the devices: from files, from memory, or from the devices' own.

config.data.cache says which; films and their order are the same, so that runs are equal.

none    every film is read and decoded each time it comes up
host    all are decoded at the start and kept in memory
device  and copied to every device: only their numbers go there with a batch
"""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from cxr_jax import sharding
from cxr_jax.data import cache, pipeline
from cxr_jax.data.source import Source

_CACHES = ("none", "host", "device")


class Feed:
    """An endless iterator of {"image": uint8 [batch_size, size, size, 1]}, split over devices."""

    def __init__(self, batches: Any, put: Callable[[Any], dict[str, jax.Array]]):
        self._batches, self._put = batches, put

    def __iter__(self) -> Iterator[dict[str, jax.Array]]:
        return self

    def __next__(self) -> dict[str, jax.Array]:
        return self._put(next(self._batches))

    def get_state(self) -> dict[str, Any]:
        """Where it stands, as JSON."""
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)


def open_feed(config: ml_collections.ConfigDict, source: Source, mesh: Mesh) -> Feed:
    """Batches of config.batch_size films of the source, in an order that config.seed fixes.

    Raises ValueError for an unknown cache, one that does not fit, and as `pipeline.batches`.
    """
    data = config.data
    if data.cache not in _CACHES:
        raise ValueError(f"config.data.cache={data.cache!r}: choose {', '.join(_CACHES)}")
    hosts = dict(host_index=jax.process_index(), host_count=jax.process_count())
    put = partial(sharding.put_batch, mesh=mesh)
    if data.cache == "none":
        order = (config.batch_size, data.image_size, config.seed, data.num_workers)
        return Feed(pipeline.batches(source, *order, **hosts), put)
    for where in _CACHES[1 : 1 + _CACHES.index(data.cache)]:  # to the device by way of the host
        free = cache.free_memory(where)
        cache.check_fits(len(source), data.image_size, free, data.cache)
    rows = pipeline.row_batches(source, config.batch_size, config.seed, **hosts)

    @functools.cache
    def films():
        """Decoded when the first batch is asked for: all that can be refused has been by then."""
        decoded = cache.decode_all(source, data.image_size, partial(print, flush=True))
        return decoded if data.cache == "host" else sharding.put_replicated(decoded, mesh)

    if data.cache == "host":
        return Feed(rows, lambda batch: put({"image": films()[batch]}))
    take = jax.jit(lambda films, batch: films[batch], out_shardings=sharding.by_example(mesh))
    return Feed(rows, lambda batch: {"image": take(films(), put({"row": batch})["row"])})

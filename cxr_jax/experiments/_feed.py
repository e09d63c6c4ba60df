"""Batches for pretraining on the devices: from files, from memory, or from the devices' own.

config.data.cache says which; images and their order are the same, so that runs are equal.

none    every image is read and decoded each time it comes up
host    all are decoded at the start and kept in memory
device  and copied to every device: only their numbers go there with a batch

A thread keeps the next batches on the devices while a step runs.
"""

import collections
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from cxr_jax.data import loader
from cxr_jax.data.order import NO_FIELDS, Fields
from cxr_jax.data.source import Source
from cxr_jax.training import preemption, sharding

_CACHES = ("none", "host", "device")
_AHEAD = 2  # batches on the devices besides the one in use

Batch = dict[str, jax.Array]


class Feed:
    """An endless source of batches, split over devices.

    A batch is {"image": uint8 [batch_size, size, size, 1]} and what the objective declares besides.
    The state is that after the batch last handed out, however many are ready behind it.
    """

    def __init__(self, batches: Any, put: Callable[[Any], Batch], stopped: threading.Event):
        """`stopped` tells a `put` that takes long that nobody waits for it any more."""
        self._batches, self._put, self._stopped = batches, put, stopped
        self._state = batches.get_state()
        self._thread = ThreadPoolExecutor(1, "feed", initializer=preemption.block)
        self._ahead: collections.deque[Future] = collections.deque()

    def take(self, running: Any = None) -> tuple[Batch, float]:
        """Returns the next batch, and for how many seconds the devices waited for it.

        running: an output of the step that was dispatched last. A batch that comes while that step
        still runs kept nothing waiting.
        """
        self._fill()
        upcoming = self._ahead.popleft()
        if not upcoming.done():
            jax.block_until_ready(running)
        start = time.monotonic()
        batch, self._state = upcoming.result()
        waited = time.monotonic() - start
        self._fill()
        return batch, waited

    def get_state(self) -> dict[str, Any]:
        """Returns the position in the data, as JSON."""
        return self._state

    def set_state(self, state: dict[str, Any]) -> None:
        self._drop()
        self._batches.set_state(state)
        self._state = state

    def close(self) -> None:
        """Ends its thread and the processes that decode for it."""
        self._stopped.set()
        self._drop()
        self._thread.shutdown()
        self._batches.close()

    def _fill(self) -> None:
        while len(self._ahead) < _AHEAD:
            self._ahead.append(self._thread.submit(self._fetch))

    def _fetch(self) -> tuple[Batch, dict[str, Any]]:
        batch = self._put(next(self._batches))
        # A copy that is still under way would be waited for by the step, unseen.
        return jax.block_until_ready(batch), self._batches.get_state()

    def _drop(self) -> None:
        for upcoming in self._ahead:
            upcoming.cancel()
        self._ahead.clear()
        self._thread.submit(lambda: None).result()  # one may be half done


def open_feed(
    config: ml_collections.ConfigDict, source: Source, mesh: Mesh, fields: Fields = NO_FIELDS
) -> Feed:
    """Opens batches of config.batch_size images of the source, in an order fixed by config.seed.

    Raises ValueError for an unknown cache, one that does not fit, and as `loader.batches`.
    """
    data = config.data
    if data.cache not in _CACHES:
        raise ValueError(f"config.data.cache={data.cache!r}: choose {', '.join(_CACHES)}")
    # Blocks as the mesh has its rows.
    which = dict(block=jax.process_index(), blocks=jax.process_count(), fields=fields)
    put, stopped = partial(sharding.put_batch, mesh=mesh), threading.Event()
    if data.cache == "none":
        order = (config.batch_size, data.image_size, config.seed, data.num_workers)
        return Feed(loader.batches(source, *order, **which), put, stopped)
    for where in _CACHES[1 : 1 + _CACHES.index(data.cache)]:  # to the device by way of the host
        free = loader.free_memory(where)
        loader.check_fits(len(source), data.image_size, free, data.cache)
    rows = loader.row_batches(source, config.batch_size, config.seed, **which)
    # Every process gathers from the images on its own devices, without the others.
    local = mesh.local_mesh

    @functools.cache
    def images():
        """Decodes when the first batch is asked for: all that can be refused has been by then."""
        say = partial(print, flush=True)
        decoded = loader.decode_all(source, data.image_size, say, stopped)
        return decoded if data.cache == "host" else sharding.put_replicated(decoded, local)

    if data.cache == "host":

        def look_up(batch):
            return put(loader.look_up(batch, fields, images().__getitem__))

        return Feed(rows, look_up, stopped)

    @partial(jax.jit, out_shardings=sharding.by_example(local))
    def gather(images, rows):
        return loader.look_up(rows, fields, lambda of: images[of])

    def take(batch):
        own = gather(images(), sharding.put_replicated(batch, local))
        return {name: sharding.join(part, mesh) for name, part in own.items()}

    return Feed(rows, take, stopped)

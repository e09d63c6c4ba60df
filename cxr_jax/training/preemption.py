"""Preemption: at SIGTERM, or SIGUSR1 some time before a limit, save and end with exit code 75.

That is EX_TEMPFAIL in sysexits.h, "try again later". JAX's own service (jax.experimental.
multihost_utils.reached_preemption_sync_point) does not serve: it takes SIGTERM for itself, so that
a run which is still reading or compiling does not end, and does not hear SIGUSR1.
"""

import contextlib
import os
import signal
import sys
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cxr_jax.training import distributed, sharding

EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(BaseException):
    """The end that a signal asked for; no Exception, so that no handler takes it for a failure.

    saved: the run stopped in order, on every host at the same step.
    """

    def __init__(self, words: str, saved: bool = False):
        super().__init__(words)
        self.saved = saved


_name = ""  # of the signal that came
_waiting = False  # somebody asks from time to time whether one came
_advice = ""


def listen(advice: str) -> None:
    """Makes such a signal end the process with EXIT_CODE and `advice`, unless in a `Stop`.

    One of several hosts raises Preempted in its main thread instead, to tell the others.
    """
    global _advice
    _advice = advice
    for number in _SIGNALS:
        signal.signal(number, _on_signal)


def block() -> None:
    """Keeps the signals from this thread, and from the processes that it starts.

    Schedulers send them to workers too, whose batches are needed until the state is saved.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _name
    _name = signal.Signals(number).name
    if _waiting:
        return
    if distributed.count() > 1:
        raise Preempted(f"{_name} received")
    # An exception would be swallowed where it comes up within a callback, as JAX's at every
    # collection of garbage, or bring down what it comes up in.
    with contextlib.suppress(Exception):  # in the midst of a print
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(1, f"{_name} received. {_advice}\n".encode())
    os._exit(EXIT_CODE)


def check() -> None:
    """Raises Preempted if a signal came while a `Stop` was entered."""
    if _name:
        raise Preempted(f"{_name} received")


class Stop:
    """While it is entered, signals wait for `before`, by which all hosts stop at the same step.

    Before every step the hosts ask each other, on the devices of `mesh`, whether one of them heard
    a signal. The answer is read a step later, so that it keeps no device waiting.
    """

    def __init__(self, mesh: Mesh):
        self._mesh, self._answer = mesh, None
        self._any = jax.jit(jnp.any, out_shardings=sharding.replicated(mesh))

    def __enter__(self):
        global _waiting
        _waiting = True
        return self

    def __exit__(self, *error):
        global _waiting
        _waiting = False

    def before(self) -> bool:
        """Says whether to stop instead of starting another step; every host calls it."""
        if distributed.count() == 1:
            return bool(_name)
        last = self._answer
        own = np.full(self._mesh.local_mesh.shape["data"], bool(_name))
        self._answer = self._any(sharding.put_batch({"stop": own}, self._mesh)["stop"])
        return last is not None and bool(last)

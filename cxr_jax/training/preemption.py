"""A scheduler wants the machine back (SIGTERM, or SIGUSR1 some time before a limit): save, and end.

The process then ends with exit code 75, EX_TEMPFAIL in sysexits.h: "try again later".
"""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

import jax
from jax._src.distributed import global_state

from cxr_jax.training import distributed

EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_LOOK_SECONDS = 0.5  # between looks whether another host was told
_FOLDER = "cxr_jax/preempted"


class Preempted(BaseException):
    """Told to end. Not an Exception, so that nobody takes it for a failure of his own.

    saved: the run has come to its end in order, on every host at the same step.
    """

    def __init__(self, words: str, saved: bool = False):
        super().__init__(words)
        self.saved = saved


_name = ""  # of the signal that came
_waiting = False  # somebody asks from time to time whether one came
_advice = ""


def listen(advice: str) -> None:
    """From now on such a signal ends the process with EXIT_CODE, but for `Stop`; `advice` is its
    last line. One of several hosts raises Preempted in its main thread instead, to tell the others.
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

    Hosts agree through the coordination service: each publishes the last step that it has started,
    and the highest of these is the last for all. One that has published waits for the others'
    numbers before it starts another step. A thread publishes, so that no host waits for one that
    is itself waiting inside a step.
    """

    def __enter__(self):
        global _waiting
        _waiting = True
        self._lock, self._agreed = threading.Lock(), threading.Event()
        self._published = self._over = False
        self._started, self._last = 0, 0
        if distributed.count() > 1:
            threading.Thread(target=self._agree, daemon=True).start()
        return self

    def __exit__(self, *error):
        global _waiting
        _waiting, self._over = False, True
        if distributed.count() > 1 and error == (None, None, None):
            self._publish()  # another may have been told while this one ran its last step

    def before(self, step: int) -> bool:
        """Whether to stop instead of starting this step."""
        if distributed.count() == 1:
            return bool(_name)
        with self._lock:
            if not self._published:
                self._started = step
                return False
        self._agreed.wait()  # where another host has died, `hosts` ends this process
        return step > self._last

    def _publish(self) -> None:
        with self._lock:
            if not self._published:
                self._published = True
                key = f"{_FOLDER}/{distributed.index()}"
                global_state.client.key_value_set(key, str(self._started))

    def _agree(self) -> None:
        client = global_state.client
        try:
            while not (_name or client.key_value_dir_get(_FOLDER)):
                time.sleep(_LOOK_SECONDS)
                if self._over:
                    return
            self._publish()
            while len(told := client.key_value_dir_get(_FOLDER)) < distributed.count():
                time.sleep(_LOOK_SECONDS)
        except jax.errors.JaxRuntimeError:  # the service is gone; jaxlib ends the process
            return
        self._last = max(int(step) for _, step in told)
        self._agreed.set()

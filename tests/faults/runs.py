"""Runs of run.py on the tiny drawn dataset, in processes that tests kill, signal and starve.

The processes are forked from one that has imported everything: a start costs a second or two.
"""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

KEPT = (4, 6)  # steps of the two checkpoints that a finished `tiny` run has
_SECONDS = 1800  # of patience with a busy machine
_LOOK_SECONDS = 0.005
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.child"])


class Run:
    """One start of `run.py` with these arguments; what it says goes to the file `log`."""

    def __init__(self, arguments: list[str], log: Path, setting: dict[str, int] | None = None):
        """`setting` as child.main."""
        from tests.faults import child

        self._log = log
        self._process = _context.Process(target=child.main, args=(arguments, str(log), setting))
        self._process.start()

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Whether it happened before the process ended."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            if happened():
                return True
            if not self._process.is_alive():
                return happened()
            time.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"nothing happened in {_SECONDS} s:\n{self.said()}")

    def end(self, number: int | None = None) -> int:
        """Sends a signal, if any, and returns the exit code (negative: the signal it died of)."""
        if number is not None:
            self.send(number)
        self._process.join(_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(f"it does not end:\n{self.said()}")
        return self._process.exitcode

    def send(self, number: int) -> None:
        """A signal to it and its workers, as schedulers do, if it is still alive."""
        if self._process.is_alive():
            os.killpg(self._process.pid, number)

    def kill(self) -> bool:
        """kill -9, of this process alone; whether it found it alive."""
        self._process.kill()
        return self.end() == -signal.SIGKILL

    def has_ended_whole(self) -> bool:
        """Whether none of its processes is left, after waiting for them."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.1)
        return False

    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


def tiny(data_dir: Path, workdir: Path, **changes) -> list[str]:
    """Arguments of a run whose steps take milliseconds; `changes` as data__name=value."""
    fields = dict(
        num_train_steps=6,
        checkpoint_every_steps=2,
        log_every_steps=1,
        batch_size=16,
        data__image_size=24,
        image_size=16,
        views__a__size=16,
        views__b__size=16,
        objective__hidden="(8,)",
        objective__out=4,
        optimizer__warmup=1,
        data__name="phantom/tiny",
        data__dir=data_dir,
        transfer__dataset="",
    )
    fields |= changes
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    return ["--config=configs/simclr.py:demo", *flags, f"--workdir={workdir}"]


def lines(workdir: Path) -> list[dict]:
    """Of metrics.jsonl, but for one that is being written."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def config(workdir: Path) -> dict:
    return json.loads((workdir / "config.json").read_text())


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdigit())


def assert_equal_ends(one: Path, other: Path) -> None:
    """Metrics, last checkpoint (state, encoder, place in the data) and ledger, bit for bit."""
    for name in ("metrics.jsonl", "exposure.parquet", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    last = [folder / "checkpoints" / str(saved_steps(folder)[-1]) for folder in (one, other)]
    assert last[0].name == last[1].name
    for item in ("state", "encoder"):
        a, b = (_arrays(folder / item) for folder in last)
        jax.tree.map(np.testing.assert_array_equal, a, b)
    a, b = ((folder / "data" / "metadata").read_text() for folder in last)
    assert json.loads(a) == json.loads(b)


def _arrays(item: Path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(item.resolve()).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        return checkpointer.restore(item.resolve(), restore_args=as_numpy)

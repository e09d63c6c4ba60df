"""Runs of run.py on the tiny drawn dataset, in processes that tests kill, signal and starve.

The processes are forked from one that has imported everything, `python -m tests.faults.runs`: a
start costs a second or two.
"""

import atexit
import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.fakes.tiny_config import LEFT_OUT

SAVE_EVERY, KNN_EVERY = 20, 30  # steps
KEPT = (40, 60)  # steps of the two checkpoints that a finished `tiny` run has
_SECONDS = 1800  # of patience with a busy machine
_LOOK_SECONDS = 0.005
_ROOT = Path(__file__).parents[2]


class _Forks:
    """Returns the process that forks, started when it is first asked."""

    def ask(self, **question) -> int | None:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @functools.cached_property
    def _process(self) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.runs"],
            cwd=_ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(process.communicate)  # it ends when its input does
        return process


_forks = _Forks()


class Run:
    """One start of `run.py` with these arguments; what it says goes to the file `log`."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        limits: dict[str, int] | None = None,
        errors: Path | None = None,
    ):
        """`limits` by their names in `resource`, in bytes; `errors` takes stderr from the log."""
        log.unlink(missing_ok=True)  # what it says of an earlier run
        self._log, self._code = log, None
        files = [str(log), str(errors or log)]
        self.pid = _forks.ask(start=arguments, files=files, limits=limits or {})

    def poll(self) -> int | None:
        """Returns the exit code (negative: the signal it died of), or None while it runs."""
        if self._code is None:
            self._code = _forks.ask(poll=self.pid)
        return self._code

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Returns whether it happened before the process ended."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            if happened():
                return True
            if self.poll() is not None:
                return happened()
            time.sleep(_LOOK_SECONDS)
        raise TimeoutError(f"nothing happened in {_SECONDS} s:\n{self.said()}")

    def end(self, number: int | None = None) -> int:
        """Sends a signal, if any, and returns the exit code."""
        if number is not None:
            self.send(number)
        if not self.wait_for(lambda: self.poll() is not None):
            raise TimeoutError(f"it does not end:\n{self.said()}")
        return self.poll()

    def send(self, number: int) -> None:
        """Sends a signal to it and its workers, as schedulers do, if it still runs."""
        if self.poll() is None:
            os.killpg(self.pid, number)

    def kill(self) -> bool:
        """kill -9, of this process alone; whether it found it alive."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.end() == -signal.SIGKILL

    def has_ended_whole(self) -> bool:
        """Checks that none of its workers is left, after waiting for them."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            if not _running(self.pid):
                return True
            time.sleep(0.1)
        return False

    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


def _running(group: int) -> int:
    """Processes of a group, but for those that ended and that nobody has asked after."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            count += int(its_group) == group and state != "Z"
    return count


def tiny(data_dir: Path, workdir: Path, **changes) -> list[str]:
    """Arguments of a run whose steps take milliseconds; `changes` as data__name=value."""
    fields = dict(
        num_train_steps=KEPT[-1],
        checkpoint_every_steps=SAVE_EVERY,
        log_every_steps=1,
        online_knn__dataset="phantom/tiny",
        online_knn__every_steps=KNN_EVERY,
        batch_size=16,
        data__image_size=24,
        image_size=16,
        views__a__size=16,
        views__b__size=16,
        objective__hidden="(8,)",
        objective__out=4,
        optimizer__warmup=1,
        **{f"views__{view}__{name}": 0.0 for view in "ab" for name in LEFT_OUT},
        data__name="phantom/tiny",
        data__dir=data_dir,
        transfer__dataset="",
    )
    fields |= changes
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    return ["--config=configs/simclr.py:demo", *flags, f"--workdir={workdir}"]


def logged(workdir: Path) -> int:
    """Returns the last step in metrics.jsonl; 0 without any."""
    path = workdir / "metrics.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(whole[-1])["step"] if whole else 0


def config(workdir: Path) -> dict:
    return json.loads((workdir / "config.json").read_text())


def saved_steps(workdir: Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdigit())


def assert_equal_ends(one: Path, other: Path) -> None:
    """Metrics, last checkpoint (state, encoder, place in the data) and seen images, bit for bit."""
    for name in ("metrics.jsonl", "seen_images.parquet", "config.json"):
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


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yields the folder as a disk of 64 MB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "faults", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leaves so many bytes free; returns the file that takes all others."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - free))
    return filler


def _fork() -> None:
    """Reads JSON lines and answers each with one, until its standard input ends.

    {"start": [arguments], "files": [of stdout, of stderr], "limits": {name of `resource`: bytes}}
    -> process id;
    {"poll": process id} -> exit code, negative for the signal that ended it, or null while it runs.
    """
    import run  # noqa: F401
    from cxr_jax.experiments import pretrain, transfer  # noqa: F401 (so that no fork imports them)

    for line in sys.stdin:
        asked = json.loads(line)
        if "poll" in asked:
            process, status = os.waitpid(asked["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
        else:
            answer = os.fork()
            if answer == 0:
                sys.exit(_run(asked["start"], asked["files"], asked["limits"]))
        print(json.dumps(answer), flush=True)


def _run(arguments: list[str], files: list[str], limits: dict[str, int]) -> int:
    import run

    os.setsid()  # so that a signal can go to it and to its workers together, as schedulers do
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.reconfigure(line_buffering=True)
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, name), (most, most))
    try:
        return run.main(arguments)
    except BaseException:
        traceback.print_exc()
        return 99


if __name__ == "__main__":
    _fork()

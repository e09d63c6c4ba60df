"""Logs: metrics.jsonl (exact, repeatable), the loggers of config.loggers, and the terminal.

metrics.jsonl holds nothing that a clock decides, so that two equal runs write equal files;
speeds go to the loggers and the progress line.
"""

import datetime
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from cxr_jax.io.atomic import atomic_write, atomic_write_text
from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain
from cxr_jax.training import loggers
from cxr_jax.training._utilisation import Utilisation

_BAR = 24  # characters


class Writer:
    """Appends to workdir/metrics.jsonl and to the loggers; warnings go to the terminal too."""

    def __init__(
        self,
        workdir: Path,
        first_step: int = 0,
        names: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        """Lines and events of steps after `first_step` (a killed run's) are taken back.

        What a service of others has of them stays, and is not sent again: loggers.json in the
        workdir says how far that is. names: config.loggers. config: flat, as hyperparameters.

        A service that fails during the run, or does not take it up again, gets no more of it until
        the next start. Raises ValueError, and changes nothing, where the lines up to there are
        damaged; and as loggers.find, or where a service does not take a new run.
        """
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            kept = kept_lines(self._path, first_step)
            with atomic_write(self._path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        self._remote = workdir / "loggers.json"
        self._before = read_json(self._remote) if self._remote.exists() else {}
        self._loggers, self._sent = {}, {}
        for name in names:
            before = self._before.get(name, {"run": "", "step": -1})
            open_logger = loggers.find(name)
            try:
                opened = open_logger(workdir, config or {}, first_step, before["run"])
            except Exception as error:  # its client's, and of the network: many kinds
                if not before["run"]:
                    raise
                _say_lost(name, error)
                continue
            self._loggers[name] = opened
            self._sent[name] = before["step"] if opened.run else -1
        self._file = self._path.open("a")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes to metrics.jsonl and the loggers."""
        self._file.write(_line(step, values))
        self._file.flush()
        self.board_scalars(step, values)
        self._keep_sent({name: max(step, sent) for name, sent in self._sent.items()})

    def results(self, step: int, values: Mapping[str, float]) -> None:
        """Writes to the loggers what a finished run found, of which `step` is no moment.

        A service takes no step twice: what it was not told is its next one. loggers.json has the
        hash of what it was.
        """
        text = json.dumps(sorted((name, float(value)) for name, value in values.items()))
        results = hashlib.sha256(text.encode()).hexdigest()[:16]
        told = {
            name: max(step, sent + 1)
            for name, sent in self._sent.items()
            if sent < step or self._before[name].get("results") != results
        }
        for name, next_step in told.items():
            self._tell(name, "scalars", next_step, values)
        self._keep_sent(self._sent | told, results=results)

    def _keep_sent(self, sent: Mapping[str, int], **more: str) -> None:
        """Writes into loggers.json up to which step the services were told."""
        open_now = ((name, logger.run) for name, logger in self._loggers.items() if logger.run)
        if now := {name: {"run": run, "step": sent[name]} | more for name, run in open_now}:
            self._before |= now
            atomic_write_text(self._remote, json.dumps(self._before))

    def board_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes to the loggers only: speeds, which differ from run to run."""
        for name in list(self._loggers):
            if step > self._sent[name]:
                self._tell(name, "scalars", step, values)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        for logger in list(self._loggers):
            self._tell(logger, "image", step, name, image)

    def warn(self, step: int, text: str) -> None:
        """Warns in the terminal and in TensorBoard's texts."""
        say(f"WARNING: step {step}: {text}")
        for name in list(self._loggers):
            self._tell(name, "text", step, "warnings", text)

    def sync(self) -> None:
        """Puts the lines on the disk: after a power cut no checkpoint lacks its history."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        for name in list(self._loggers):
            self._tell(name, "close")

    def _tell(self, name: str, what: str, *values: Any) -> None:
        """Calls a logger; one of a service that fails is let go, so that the run goes on."""
        logger = self._loggers[name]
        try:
            getattr(logger, what)(*values)
        except Exception as error:  # its client's, and of the network: many kinds
            if not logger.run:
                raise
            del self._loggers[name]
            _say_lost(name, error)


class NoWriter:
    """Writes nothing, in all processes of a run but the first."""

    def _nothing(self, *_) -> None: ...

    scalars = board_scalars = image = warn = sync = close = _nothing


def write_results(
    workdir: Path,
    names: Sequence[str],
    config: Mapping[str, Any],
    step: int,
    lines: Sequence[Mapping[str, float]],
    more: Mapping[str, float],
) -> None:
    """Writes what a finished run found into metrics.jsonl, anew; with `more`, to the loggers.

    names, config: as of `Writer`. Raises as it does.
    """
    path = workdir / "metrics.jsonl"
    path.unlink(missing_ok=True)
    try:
        writer = Writer(workdir, names=names, config=config)
    finally:
        atomic_write_text(path, "".join(_line(step, values) for values in lines))
    writer.results(step, dict(ChainMap(*lines, more)))
    writer.close()


def _line(step: int, values: Mapping[str, float]) -> str:
    record = {"step": step, **{name: float(value) for name, value in values.items()}}
    return json.dumps(record) + "\n"


def _say_lost(name: str, error: Exception) -> None:
    say(
        f"WARNING: config.loggers: {name} failed ({plain(str(error))}) and gets no more of this "
        "run until its next start; metrics.jsonl has every line"
    )


def write_projector(
    folder: Path,
    points: Float[np.ndarray, "n d"],
    columns: Mapping[str, Sequence[str]],
    thumbnails: UInt8[np.ndarray, "n size size"],
) -> None:
    """Writes a run for TensorBoard's projector into the new `folder`.

    columns: name -> one word a point; two columns at least. TensorBoard finds the run by its event
    file, and there projector_config.pbtxt names the others: tensors.tsv, metadata.tsv, sprite.png.
    """
    from tensorboardX import SummaryWriter  # not before: it imports PyTorch where there is one

    header, *rows = [
        [" ".join(word.split()) for word in row]
        for row in (columns, *zip(*columns.values(), strict=True))
    ]
    with SummaryWriter(str(folder)) as board:
        board.add_embedding(
            np.round(points.astype(np.float64), 4),  # a tenth of the text that all digits would be
            rows,
            thumbnails[:, None] / np.float32(255),
            tag="features",
            metadata_header=header,
        )


def say(line: str) -> None:
    """Prints a line, in place of the progress bar where there is one."""
    print(("\x1b[2K" if sys.stdout.isatty() else "") + line, flush=True)


class Progress:
    """Prints a line now and then: step, loss, images/s since the last line, time left.

    On a terminal a bar below the last line moves meanwhile, with the processors' and GPUs' share
    and what memory is in use.
    """

    def __init__(self, total_steps: int, images_per_step: int):
        self._total, self._images = total_steps, images_per_step
        self._drawn = 0.0 if sys.stdout.isatty() else math.inf
        self._gpus = Utilisation(jax.local_devices())
        self.start(0)

    def start(self, step: int) -> None:
        """Sets the clock: what came up to `step` does not count."""
        self._first = self._last_step = step
        self._start = self._last_time = time.monotonic()
        self._waited, self._cpu = 0.0, time.process_time()

    def waited(self, seconds: float) -> None:
        """Adds time that the devices stood idle for want of a batch."""
        self._waited += seconds

    def draw(self, step: int) -> None:
        """Draws the bar anew, on a terminal and a second after the last."""
        now = time.monotonic()
        if now - self._drawn < 1:
            return
        self._drawn = now
        done = round(_BAR * step / self._total)
        rate, waiting, left = self._speeds(step, now)
        parts = [
            f"{'━' * done}{'╌' * (_BAR - done)} {step / self._total:.0%}",
            f"{rate:,.0f} images/s",
            f"{left} left",
            f"data wait {waiting:.0%}",
            f"CPU {self._cpu_share(now):.0%}",
            self._gpus.words(now),
            _memory(),
        ]
        width = shutil.get_terminal_size().columns - 1
        print("\x1b[2K" + "  ".join(filter(None, parts))[:width], end="\r", flush=True)

    def report(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Prints the line and returns the speeds it shows."""
        now = time.monotonic()
        rate, waiting, left = self._speeds(step, now)
        shown = [f"step {step}/{self._total}", f"loss {metrics['loss']:.4f}"]
        if "embedding_std" in metrics:
            shown.append(f"spread {metrics['embedding_std']:.2f}")
        if "effective_rank" in metrics:
            shown.append(f"rank {metrics['effective_rank']:.1f}")
        shown += [f"{rate:,.0f} images/s", f"data wait {waiting:.0%}", f"{left} left"]
        say("  ".join(shown))
        self._last_time, self._last_step, self._waited = now, step, 0.0
        self._cpu = time.process_time()
        return {"speed/images_per_second": rate, "speed/data_wait": waiting}

    def _cpu_share(self, now: float) -> float:
        """Returns how much of the cores that it may use this process used since the last line."""
        span = max(now - self._last_time, 1e-9) * len(os.sched_getaffinity(0))
        return min(1.0, (time.process_time() - self._cpu) / span)

    def _speeds(self, step: int, now: float) -> tuple[float, float, datetime.timedelta]:
        """Returns images/s and the share of time that waited for data, both since the last line,
        and the time left."""
        span = max(now - self._last_time, 1e-9)
        rate = (step - self._last_step) * self._images / span
        left = (now - self._start) / max(step - self._first, 1) * (self._total - step)
        return rate, min(1.0, self._waited / span), datetime.timedelta(seconds=round(left))


def _memory() -> str:
    """Returns what the process and its first device hold, where the device says so."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = f"memory {pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"
    found = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        held += f", device {found['bytes_in_use'] / 1e9:.1f} of {found['bytes_limit'] / 1e9:.0f} GB"
    return held


def kept_lines(path: Path, step: int) -> list[bytes]:
    """Returns the lines of steps <= `step` of the run in the folder of `path`, without their ends.

    Later lines may be damaged, as a kill cuts the last one short. A file without any line up to
    `step` is one whose history was moved away. Raises ValueError, with its number, where a line up
    to the last step that is logged in any case (experiments/pretrain.py) is damaged or missing.
    """
    kept, last, damaged = [], 0, False
    for line in filter(None, path.read_bytes().split(b"\n")):
        try:
            found = int(json.loads(line)["step"])
        except (ValueError, LookupError, TypeError, RecursionError):
            damaged = True
            break
        if found > step:
            break
        kept.append(line)
        last = found
    saved = path.with_name("config.json")
    config = json.loads(saved.read_text()) if saved.exists() else {}
    ends = step == config.get("num_train_steps")
    due = step if ends else step - step % config.get("log_every_steps", 1)
    if last < due and (kept or damaged):
        raise ValueError(
            f"{path}, line {len(kept) + 1}, is damaged or missing, and the run goes on after step "
            f"{step}: restore the file, or move it away to go on without the history"
        )
    return kept

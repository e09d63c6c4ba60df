"""Logs: metrics.jsonl (exact, repeatable), TensorBoard (with pictures) and the terminal.

metrics.jsonl holds nothing that a clock decides, so that two equal runs write equal files;
speeds go to TensorBoard and the progress line.
"""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tensorboardX import SummaryWriter, summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cxr_jax.io.atomic import atomic_write


class Writer:
    """Appends to workdir/metrics.jsonl and to TensorBoard events in workdir."""

    def __init__(self, workdir: Path, first_step: int = 0):
        """Lines and events of steps after `first_step` (a killed run's) are taken back.

        Raises ValueError, and changes nothing, where the lines up to there are damaged.
        """
        self._path = workdir / "metrics.jsonl"
        if self._path.exists():
            kept = kept_lines(self._path, first_step)
            with atomic_write(self._path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        self._file = self._path.open("a")
        # Not SummaryWriter: where a disk is full its thread ends, and the next events wait for it
        # for ever; and of a killed run it loses the events of up to two minutes.
        resumed = any(workdir.glob("events.out.tfevents.*"))
        self._board = EventsWriter(str(workdir / "events"), f".{first_step}")
        if resumed:  # TensorBoard then drops what it has of later steps
            start = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=first_step + 1, session_log=start))
            self._board.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes to metrics.jsonl and TensorBoard."""
        record = {"step": step, **{name: float(value) for name, value in values.items()}}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self.board_scalars(step, values)

    def board_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes to TensorBoard only: speeds, which differ from run to run."""
        for name, value in values.items():
            self._show(step, summary.scalar(name, float(value)))
        self._board.flush()

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        self._show(step, summary.image(name, image, dataformats="HWC"))
        self._board.flush()

    def warn(self, step: int, text: str) -> None:
        """Warns in the terminal and in TensorBoard's texts."""
        print(f"WARNING: step {step}: {text}", flush=True)
        self._show(step, summary.text("warnings", text))
        self._board.flush()

    def sync(self) -> None:
        """Puts the lines on the disk: after a power cut no checkpoint lacks its history."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def _show(self, step: int, shown: Summary) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, summary=shown))


class NoWriter:
    """Writes nothing, in all processes of a run but the first."""

    def _nothing(self, *_) -> None: ...

    scalars = board_scalars = image = warn = sync = close = _nothing


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
    names = [_flat(name) for name in columns]
    rows = [[_flat(word) for word in row] for row in zip(*columns.values(), strict=True)]
    board = SummaryWriter(str(folder))
    board.add_embedding(
        np.round(points.astype(np.float64), 4),  # a tenth of the text that all digits would be
        rows,
        thumbnails[:, None] / np.float32(255),
        tag="features",
        metadata_header=names,
    )
    board.close()


def _flat(text: str) -> str:
    return " ".join(text.split())


class Progress:
    """Prints a line now and then: step, loss, images/s since the last line, time left."""

    def __init__(self, total_steps: int, images_per_step: int):
        self._total, self._images = total_steps, images_per_step
        self.start(0)

    def start(self, step: int) -> None:
        """Sets the clock: what came up to `step` does not count."""
        self._first = self._last_step = step
        self._start = self._last_time = time.monotonic()
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Adds time that the devices stood idle for want of a batch."""
        self._waited += seconds

    def report(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Prints the line and returns the speeds it shows."""
        now = time.monotonic()
        span = max(now - self._last_time, 1e-9)
        rate = (step - self._last_step) * self._images / span
        waiting = min(1.0, self._waited / span)
        left = (now - self._start) / max(step - self._first, 1) * (self._total - step)
        shown = [f"step {step}/{self._total}", f"loss {metrics['loss']:.4f}"]
        if "embedding_std" in metrics:
            shown.append(f"spread {metrics['embedding_std']:.2f}")
        if "effective_rank" in metrics:
            shown.append(f"rank {metrics['effective_rank']:.1f}")
        shown += [f"{rate:,.0f} images/s", f"data wait {waiting:.0%}", f"{_clock(left)} left"]
        print("  ".join(shown), flush=True)
        self._last_time, self._last_step, self._waited = now, step, 0.0
        return {"speed/images_per_second": rate, "speed/data_wait": waiting}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


_START = re.compile(rb'\{"step": (\d+),')


def kept_lines(path: Path, step: int) -> list[bytes]:
    """Returns the lines of steps <= `step` of the run in the folder of `path`, without their ends.

    Later lines may be damaged, as a kill cuts the last one short. A file without any line up to
    `step` is one whose history was moved away. Raises ValueError, with its number, for a line up to
    `step` that is damaged or missing.
    """
    kept, last, damaged = [], 0, 0
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        found, whole = _step_of(line)
        if found is None:
            damaged = damaged or number
        elif found <= step:
            if damaged or not whole:
                raise _refusal(path, damaged or number, step)
            kept.append(line)
            last = found
    if (kept or damaged) and last < _last_logged(path.parent, step):
        raise _refusal(path, damaged or len(kept) + 1, step)
    return kept


def _step_of(line: bytes) -> tuple[int | None, bool]:
    """Returns the line's step, None where it cannot be read, and whether the line is whole."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        start = _START.match(line)
        return (int(start[1][:18]) if start else None), False
    step = record.get("step") if isinstance(record, dict) else None
    return (step, True) if type(step) is int else (None, False)


def _last_logged(workdir: Path, step: int) -> int:
    """Returns the last step up to `step` that is logged in any case (experiments/pretrain.py)."""
    path = workdir / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    if step == config.get("num_train_steps"):
        return step
    return step - step % config.get("log_every_steps", 1)


def _refusal(path: Path, number: int, step: int) -> ValueError:
    return ValueError(
        f"{path}, line {number}, is damaged or missing, and the run goes on after step {step}: "
        "restore the file, or move it away to go on without the history"
    )

"""Logs: metrics.jsonl (exact, repeatable), TensorBoard (with pictures) and the terminal.

metrics.jsonl holds nothing that a clock decides, so that two equal runs write equal files;
speeds go to TensorBoard and the progress line.
"""

import datetime
import json
import os
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
        self._show(step, *(summary.scalar(name, float(value)) for name, value in values.items()))

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        self._show(step, summary.image(name, image, dataformats="HWC"))

    def warn(self, step: int, text: str) -> None:
        """Warns in the terminal and in TensorBoard's texts."""
        print(f"WARNING: step {step}: {text}", flush=True)
        self._show(step, summary.text("warnings", text))

    def sync(self) -> None:
        """Puts the lines on the disk: after a power cut no checkpoint lacks its history."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def _show(self, step: int, *shown: Summary) -> None:
        for one in shown:
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=one))
        self._board.flush()


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
        shown += [
            f"{rate:,.0f} images/s",
            f"data wait {waiting:.0%}",
            f"{datetime.timedelta(seconds=round(left))} left",
        ]
        print("  ".join(shown), flush=True)
        self._last_time, self._last_step, self._waited = now, step, 0.0
        return {"speed/images_per_second": rate, "speed/data_wait": waiting}


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

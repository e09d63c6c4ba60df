"""TensorBoard: event files in the workdir, with pictures, warnings and the config's fields."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from cxr_jax.training.loggers import Logger

PACKAGE = "tensorboardX"
_COMPARED = ("loss", "knn_auroc", "macro_auroc")  # in the table of hyperparameters


class TensorBoard(Logger):
    """Appends to an event file of its own."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], first_step: int):
        # Not SummaryWriter: where a disk is full its thread ends, and the next events wait for it
        # for ever; and of a killed run it loses the events of up to two minutes.
        resumed = any(workdir.glob("events.out.tfevents.*"))
        self._board = EventsWriter(str(workdir / "events"), f".{first_step}")
        if resumed:  # TensorBoard then drops what it has of later steps
            start = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(step=first_step + 1, session_log=start))
            self._board.flush()
        elif config:
            fields = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in config.items()
            }
            self._show(0, *summary.hparams(fields, dict.fromkeys(_COMPARED)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._show(step, *(summary.scalar(name, float(value)) for name, value in values.items()))

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        self._show(step, summary.image(name, image, dataformats="HWC"))

    def text(self, step: int, name: str, text: str) -> None:
        self._show(step, summary.text(name, text))

    def close(self) -> None:
        self._board.close()

    def _show(self, step: int, *shown: Summary) -> None:
        for one in shown:
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=one))
        self._board.flush()


def open_logger(workdir: Path, config: Mapping[str, Any], first_step: int, before: str) -> Logger:
    return TensorBoard(workdir, config, first_step)

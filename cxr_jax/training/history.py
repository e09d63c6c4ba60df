"""The lines of metrics.jsonl that a resumed run keeps: all up to its step, or it is refused."""

import json
import re
from pathlib import Path

_START = re.compile(rb'\{"step": (\d+),')


def up_to(path: Path, step: int) -> list[bytes]:
    """The lines of steps <= `step` of the run in the folder of `path`, without their ends.

    What stands after them may be damaged, as a kill cuts the last line short. A file without any
    such line is one whose history was moved away.

    Raises:
      ValueError: a line up to `step` is damaged or missing; names it.
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
    """The line's step, None where it cannot be read; whether the line is whole."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        start = _START.match(line)
        return (int(start[1][:18]) if start else None), False
    step = record.get("step") if isinstance(record, dict) else None
    return (step, True) if type(step) is int else (None, False)


def _last_logged(workdir: Path, step: int) -> int:
    """The last of the steps up to `step` that are logged in any case (experiments/pretrain.py)."""
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

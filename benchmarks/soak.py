"""Does a long pretraining stay as it is? Memory, threads and open files over thousands of steps.

    python -m benchmarks.soak --config=configs/simclr.py:demo --config.data.dir=data \\
      --config.num_train_steps=3000 --config.log_every_steps=10

Runs that pretraining in a folder of its own, which goes afterwards, and looks at its process once
a second. The first third is for buffers to fill; growth is from its end on, by the median of the
second third and of the last.
"""

import argparse
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import _command
from cxr_jax import config as config_file
from cxr_jax.experiments import pretrain

_ROWS = 8  # of the table
_FORMATS = {
    "steps": ",",
    "host memory (MB)": ",.1f",
    "threads": "",
    "open files": "",
    "arrays": ",",
    "device memory (MB)": ",.1f",
}


def look(steps: int) -> dict[str, float]:
    """What this process holds now."""
    arrays = jax.live_arrays()
    in_use = [(device.memory_stats() or {}).get("bytes_in_use") for device in jax.local_devices()]
    held = sum(in_use) if None not in in_use else sum(array.nbytes for array in arrays)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "steps": steps,
        "host memory (MB)": int(status["VmRSS"].split()[0]) / 1e3,
        "threads": int(status["Threads"]),
        "open files": len(os.listdir("/proc/self/fd")),
        "arrays": len(arrays),
        "device memory (MB)": held / 1e6,
    }


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """From the second third of the steps to the last, by column."""
    end = samples[-1]["steps"]
    second = [one for one in samples if end / 3 <= one["steps"] < 2 * end / 3]
    third = [one for one in samples if one["steps"] >= 2 * end / 3]
    return {
        name: float(np.median([one[name] for one in third]))
        - float(np.median([one[name] for one in second]))
        for name in samples[0]
        if name != "steps"
    }


def measure(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
    config = config_file.load(arguments.config or "configs/simclr.py:demo", changes)
    samples, ended = [], threading.Event()
    with tempfile.TemporaryDirectory(prefix="cxr_jax-soak-") as folder:
        lines = Path(folder) / "metrics.jsonl"

        def watch() -> None:
            while not ended.wait(1.0):
                if lines.exists():
                    steps = lines.read_bytes().count(b"\n") * config.log_every_steps
                    samples.append(look(steps))

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            pretrain.train(config, Path(folder))
        finally:
            ended.set()
            watching.join()
    if len(samples) < 3 * _ROWS:
        raise ValueError(f"only {len(samples)} seconds: raise config.num_train_steps")
    chosen = np.linspace(0, len(samples) - 1, _ROWS).astype(int)
    _command.print_table([samples[i] for i in chosen], _FORMATS)
    grown = growth(samples)
    print("Growth: " + ", ".join(f"{name} {value:+.1f}" for name, value in grown.items()))
    return {"samples": samples, "growth": grown}


if __name__ == "__main__":
    _command.main(_command.parser(__doc__), measure)

"""What does feeding cost? Training as it runs, data and all, against its step on one batch.

    python -m benchmarks.end_to_end                                 # SimCLR on drawn images
    python -m benchmarks.end_to_end --config=configs/simclr.py:small \
      --config.data.name=nih_chestxray14 --config.data.dir=data

The loop is that of cxr_jax.experiments.pretrain: the feed of config.data.cache = none, host and
device, metrics fetched one step late. The model-only rate is the same step on the same batch again
and again. All run in turns. Without --config.data.name the images are drawn, 1,000
of 256 px.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import _command, _images, _timing, _work
from cxr_jax.data.source import Source, load_source
from cxr_jax.experiments import _feed
from cxr_jax.experiments._pretrain_inputs import open_fields
from cxr_jax.training import step

CACHES = ("none", "host", "device")
_MODEL_ONLY = "model only"


class Loop:
    """Training steps whose batches come from `batches`; `run(n)` goes on where it stood."""

    def __init__(self, made: step.Training, batches: Any):
        self._state, self._step, self._batches = made.create(), made.step, batches

    def run(self, steps: int) -> float:
        """The loss of the last step, for which it waits."""
        pending = None
        for _ in range(steps):
            batch, _ = self._batches.take(pending)
            self._state, metrics = self._step(self._state, batch)
            if pending is not None:
                jax.device_get(pending)
            pending = metrics
        return float(pending["loss"])


class _Again:
    """One batch, for ever."""

    def __init__(self, batch: _feed.Batch):
        self._batch = batch

    def take(self, running: Any) -> tuple[_feed.Batch, float]:
        return self._batch, 0.0


def measure(config: ConfigDict, source: Source, repetitions: int, steps: int) -> dict[str, Any]:
    """The figures of one config; prints them. A cache that does not fit is left out and named."""
    made = _work.prepare(config)
    loops, refused = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        source, fields = open_fields(config, made.objective, source, Path(folder))
    for cache in CACHES:
        chosen = config.copy_and_resolve_references()
        chosen.data.cache = cache
        try:
            batches = _feed.open_feed(chosen, source, made.mesh, fields)
        except ValueError as error:
            refused[cache] = str(error)
            continue
        loops[f"cache {cache}"] = Loop(made, batches)
        batch, _ = batches.take()
    loops[_MODEL_ONLY] = Loop(made, _Again(batch))
    for loop in loops.values():
        loop.run(3)
    times = _timing.in_turns(
        {name: partial(loop.run, steps) for name, loop in loops.items()}, repetitions
    )
    model = times[_MODEL_ONLY].seconds
    rows = [
        {
            "what": name,
            "images/s": config.batch_size * steps / time.median,
            "spread": time.spread,
            "share of model only": _timing.ratio(model, time.seconds),
        }
        for name, time in times.items()
    ]
    print(
        f"\n{config.objective.name} on {len(source):,} images of {source.name}, read at "
        f"{config.data.image_size} px by {config.data.num_workers} workers; {repetitions} x {steps}"
        f" steps of {config.batch_size} in turns\n"
    )
    _command.print_table(
        rows, {"what": "", "images/s": ",.0f", "spread": ".0%", "share of model only": ".1%"}
    )
    shares = ", ".join(f"{row['share of model only']:.0%} with {row['what']}" for row in rows[:-1])
    print(f"\nIn words: training runs at this share of its model's own speed: {shares}.")
    for error in refused.values():
        print(f"Left out: {error}")
    return {
        "objective": config.objective.name,
        "dataset": source.name,
        "images": len(source),
        "batch_size": config.batch_size,
        "steps": steps,
        "seconds": {name: time.seconds for name, time in times.items()},
        "rows": rows,
        "refused": refused,
    }


def main() -> None:
    made = _command.parser(__doc__)
    made.add_argument("--repetitions", type=int, default=7)
    made.add_argument("--steps", type=int, default=10, help="in each")

    def run(arguments: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
        configs = _command.load_configs(arguments.config, changes, ("simclr",))
        named = any(change.startswith("--config.data.name=") for change in changes)
        with tempfile.TemporaryDirectory(prefix="cxr_jax-bench-") as folder:
            figures = {}
            for name, config in configs.items():
                if config.data.get("reports"):
                    raise ValueError(f"--config={name} reads reports, which is not measured here")
                if not named:
                    config.data.name, config.data.dir = _images.drawn(
                        Path(folder), size=256, count=1000
                    )
                source = load_source(
                    config.data.name, config.data.dir, config.data.split, fields=("image",)
                )
                figures[name] = measure(config, source, arguments.repetitions, arguments.steps)
        return figures

    _command.main(made, run)


if __name__ == "__main__":
    main()

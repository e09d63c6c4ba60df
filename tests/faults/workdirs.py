"""Workdirs with one file damaged, as encoders, scores and benchmarks are read from them."""

import contextlib
import functools
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import mutations, stored
from tests.faults.mutations import Broken

_MODEL = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 16}
_CONFIG = {
    "experiment": "pretrain",
    "objective": {"name": "simclr", "temperature": 0.1},
    "optimizer": {"name": "adamw"},
    "image_size": 16,
    "model": _MODEL,
    "num_train_steps": 7,
    "batch_size": 4,
    "data": {"name": "phantom/tiny", "split": "train", "dir": "data"},
    "transfer": {"dataset": "", "data": {"dir": "data"}},
    "seed": 0,
}
_START = {
    "time": "2026-01-01T00:00:00+00:00",
    "seed": 0,
    "code": {"version": "0.1", "commit": "0" * 40, "changed": False, "sources": "ab"},
    "packages": {"jax": "0.7.0"},
    "machine": {"processor": "a", "devices": "1 x cpu"},
    "dataset": {"train": "0123456789abcdef"},
    "encoders": {},
}
_SCORE = {"label": "Edema", "n_pos": 3, "n_neg": 4, "auroc": 0.7, "low": 0.5, "high": 0.9}
_AGAINST = {"a": "simclr step 7", "b": "random", "auroc_b": 0.6, "difference": 0.1} | {
    "low": 0.0,
    "high": 0.2,
}
_SCORED = {"dataset": "phantom", "protocol": "linear", "label_fraction": 0.1, "pictures": {}}


def read_workdir(folder: Path, data: bytes, index: int) -> str:
    """Reads a pretraining, a transfer and a benchmark, one of whose files is damaged."""
    files = _sound(folder)
    rng = random.Random(data)
    name = rng.choice([name for name in files if "predictions" not in name])
    path = folder / "workdirs" / name
    damaged, anew = _damaged(rng, files[name], [c for n, c in files.items() if n != name])
    path.write_bytes(damaged)
    try:
        _read(path.parents[len(Path(name).parts) - 2], Path(name).parts[0], anew)
    finally:
        path.write_bytes(files[name])
    return "read"


def _damaged(rng: random.Random, content: bytes, others: Sequence[bytes]) -> tuple[bytes, bool]:
    """Returns the damaged content, and whether its hashes, if any, fit it."""
    if content.startswith(b"PAR1"):
        if rng.random() < 0.5:
            return stored.parquet(rng, content, others), True
        return mutations.mutated(rng, content, others), False
    damage = stored.json_tree if rng.random() < 0.6 else mutations.mutated_text
    return damage(rng, content, others), True


def _read(workdir: Path, kind: str, anew: bool) -> None:
    from cxr_jax import config, weights
    from cxr_jax.data import seen_images
    from cxr_jax.experiments import _workdir
    from cxr_jax.report import panels, tables
    from cxr_jax.report.benchmark.grid import read_grid, read_group
    from cxr_jax.weights.card import model_card
    from cxr_jax.weights.exporters import Exported

    beside = workdir.parent
    match kind:
        case "run":
            encoder = weights.load(str(workdir))
            if (encoder.name, encoder.model) != ("simclr step 7", _MODEL):
                raise Broken(f"an encoder {encoder.name!r}, {encoder.model}")
            model_card(encoder, Exported({}, {}, "", False), str(workdir), None, "")
            seen_images.read_unknown_start(workdir)
            _workdir.read_provenance(workdir)
            tables.provenance_rows(workdir)
            config.load_saved(workdir, beside, [])
            if not anew and seen_images.read(workdir).phash.tolist() != [1, 2, 3]:
                raise Broken("seen images of others")
        case "scores":
            encoder = weights.Encoder("simclr step 7", _MODEL, {}, 16)
            model_card(encoder, Exported({}, {}, "", False), str(beside / "run"), workdir, "")
            panels._how_chosen(workdir)
        case "grid":
            grid = read_grid(workdir)
            for protocol in grid.protocols:
                for dataset in grid.datasets:
                    cells = [
                        c for c in grid.cells if (c.protocol, c.dataset) == (protocol, dataset)
                    ]
                    read_group(workdir, cells, grid.reference)
            tables.provenance_rows(workdir)


@functools.lru_cache(maxsize=1)
def _sound(folder: Path) -> dict[str, bytes]:
    import jax
    import jax.numpy as jnp

    from cxr_jax.data import seen_images
    from cxr_jax.training import checkpoint
    from cxr_jax.training.step import TrainState
    from cxr_jax.transfer.predictions import write_parquet

    root = folder / "workdirs"
    shutil.rmtree(root, ignore_errors=True)
    run, scores, grid = root / "run", root / "scores", root / "grid"
    for workdir in (run, scores, grid):
        workdir.mkdir(parents=True)
    state = TrainState(jnp.int32(7), {"w": jnp.ones(2)}, {}, (), jax.random.PRNGKey(0))
    with checkpoint.open_manager(run, 1) as manager:
        checkpoint.save(manager, state, {"params": {"w": jnp.ones(2)}}, {}, _CONFIG)
    _write(run / "config.json", _CONFIG)
    texts = np.array(["phantom/tiny"] * 3), np.array(["train"] * 3)
    rows = np.arange(3), np.array(["a", "b", ""]), np.arange(1, 4).astype(np.uint64)
    seen_images.write(
        run / seen_images.FILE, seen_images.ImageHashes(*texts, *rows), unknown_start="hf:a/b"
    )
    _write(scores / "metrics.json", [_SCORE, _SCORE | {"label": "b", "auroc": None}])
    _write(scores / "comparisons.json", [_AGAINST])
    _write(scores / "config.json", _SCORED)
    cells = []
    for seed, encoder in enumerate(("ours", "random")):
        cell = grid / "cells" / encoder
        cell.mkdir(parents=True)
        write_parquet(predictions(seed), cell / "predictions.parquet")
        cells.append(
            dict(encoder=encoder, dataset="phantom", task="", protocol="linear", fraction=0.5)
            | dict(seed=0, folder=f"cells/{encoder}", state="done", num_images=10, error="")
            | dict(exposure=dict(patients=None, images=2, test_images=8))
        )
    _write(grid / "cells.json", {"reference": "ours", "num_resamples": 10, "cells": cells})
    for workdir in (run, grid):
        _write(workdir / "provenance.json", {"config": _CONFIG, "starts": [_START, _START]})
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".json", ".parquet")]
    kept = [path for path in files if "checkpoints" not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2))


def predictions(seed: int) -> Any:
    """Eight images, two labels, one target missing."""
    from cxr_jax.transfer.predictions import Predictions

    targets = np.tile(np.array([[0, 1], [1, 0]], np.float32), (4, 1))
    targets[3, 1] = np.nan
    scores = np.random.default_rng(seed).random((8, 2))
    images = np.array([f"i{number:016x}" for number in range(8)])
    patients = np.array([f"p{number // 2:016x}" for number in range(8)])
    return Predictions(images, patients, ("Edema", "Mass"), targets, scores, "probability")


def parquets() -> list[bytes]:
    """Reads a file of predictions, and one of images."""
    import tempfile

    from cxr_jax.transfer import image_table
    from cxr_jax.transfer.predictions import write_parquet

    given = predictions(0)
    table = image_table.ImageTable(
        given.image_id,
        np.array(["F", "M"] * 4),
        np.arange(20, 28).astype(np.float32),
        np.array(["PA", ""] * 4),
        np.arange(8) == 2,
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("predictions.parquet", "films.parquet")]
        write_parquet(given, paths[0])
        image_table.write_parquet(table, paths[1])
        return [path.read_bytes() for path in paths]


def read_parquet(folder: Path, data: bytes, index: int) -> str:
    """Predictions against sound ones, or the table of their images."""
    from cxr_jax.transfer import image_table
    from cxr_jax.transfer.predictions import align, read_parquet

    path = folder / "table.parquet"
    path.write_bytes(data)
    with contextlib.ExitStack() as stack:
        stack.callback(path.unlink)
        if index % 2:
            table = image_table.in_order(image_table.read_parquet(path), predictions(0).image_id)
            if len(table.age) != 8 or table.age.dtype != np.float32:
                raise Broken(f"{len(table.age)} images")
        else:
            read = align(predictions(0), read_parquet(path))
            if read.scores.shape != (8, 2) or not np.isfinite(read.scores).all():
                raise Broken(f"scores {read.scores}")
    return "read"

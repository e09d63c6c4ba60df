"""Benchmark: a grid of transfers, cell by cell; a cell that fails does not stop the others.

The workdir holds cells/<dataset>/<protocol>/<fraction>/<seed>/<encoder>/, each the workdir of a
transfer without its page, cells.json with the state of the grid, and the report, which is made from
these alone (`python -m cxr_jax.report WORKDIR` makes it again, and a page of a cell's folder). The
same command continues a stopped benchmark and tries failed cells again.
"""

import functools
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections

from cxr_jax import weights
from cxr_jax.config import flat, with_added
from cxr_jax.data import dataset_info, seen_images
from cxr_jax.data.source import load_source
from cxr_jax.experiments import _transfer_inputs, _workdir, transfer
from cxr_jax.experiments._benchmark_grid import (
    LAST,
    OWN,
    Cell,
    absent,
    grid,
    plan,
    transfer_config,
)
from cxr_jax.experiments._workdir import as_json, open_workdir, release
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.io.json import read_json
from cxr_jax.report import tables
from cxr_jax.report.benchmark import page as report
from cxr_jax.report.benchmark.grid import without_ids
from cxr_jax.training import loggers
from cxr_jax.training.log import write_results
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.weights.encoder import Encoder


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Runs the cells that are not done and writes the report.

    Raises ValueError, before anything runs, for a grid that makes no sense, and at the end where
    all cells failed.
    """
    loggers.check(config.transfer.loggers)
    cells = grid(config)
    shape = _shape(config, cells)
    if config.dry_run:
        print(plan(config, cells, workdir))
        return
    saved = config.copy_and_resolve_references()
    with saved.unlocked():
        del saved.dry_run  # a dry run does not make it another grid
    open_workdir(workdir, saved)
    _workdir.write_provenance(workdir, saved, fingerprints(config))
    for line in absent(config, cells):
        print(f"WARNING: {line}; its cells will fail, the others run", flush=True)
    configs = {cell: _config_of(config, cell, shape, workdir) for cell in cells}
    states: dict[Cell, dict[str, Any]] = {}
    held = _Held()
    groups, fresh = _groups(configs, workdir, held), set()
    for number, cell in enumerate(cells, start=1):
        print(f"\n[{number} of {len(cells)}] {cell.folder}", flush=True)
        if cell in fresh:
            print("done together with an earlier one")
        if cell in groups:
            fresh.update(_run_group(configs, groups[cell], workdir, held))
        if cell in fresh:
            states[cell] = _facts(workdir / cell.folder, cell, configs[cell])
        else:
            states[cell] = _run_cell(configs[cell], cell, workdir, held)
        _write(config, workdir, cells, states)
    failed = [cell for cell in cells if states[cell]["state"] == "failed"]
    for cell in failed:
        print(f"FAILED {cell.folder}: {states[cell]['error']}")
    if len(failed) == len(cells):
        raise ValueError(f"all {len(cells)} cells failed; the first: {states[cells[0]]['error']}")
    path = report.write(workdir)
    _log(saved, workdir, [cell.folder for cell in cells if states[cell]["state"] == "done"])
    again = " The same command tries the failed cells again." if failed else ""
    print(f"\n{len(cells) - len(failed)} of {len(cells)} cells are done.{again}")
    print(f"Read the report: {path}")


def fingerprints(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the fingerprints of all datasets that can be read, whole, for provenance.json."""
    found = {}
    for cell in {(cell.dataset, cell.task): cell for cell in grid(config)}.values():
        of_cell = transfer_config(config, cell)
        try:
            whole = _transfer_inputs.load_whole_splits(of_cell)
            found |= _transfer_inputs.fingerprint_splits(of_cell, whole)
        except (ValueError, OSError):  # its cells will fail, and say why
            continue
    return found


def _shape(config, cells: list[Cell]) -> dict[str, Any]:
    """Returns model and image size of random encoders: the first workdir's, else the config's."""
    for spec in dict.fromkeys(cell.spec for cell in cells):
        if Path(spec).expanduser().is_dir():
            encoder = weights.load(spec)
            return {"model": encoder.model, "image_size": encoder.image_size}
    return {"model": config.transfer.model.to_dict(), "image_size": config.transfer.image_size}


def _config_of(config, cell: Cell, shape: dict[str, Any], workdir: Path):
    changed = transfer_config(config, cell)
    with changed.unlocked():
        changed.model = shape["model"]
    changed.update(
        encoder=cell.spec,
        baselines="",
        protocol=cell.protocol,
        label_fraction=cell.fraction,
        seed=cell.seed,
        image_size=shape["image_size"],
        feature_cache=str(workdir / "features"),
        loggers=("tensorboard",),  # of others the benchmark is one run
    )
    largest = cell.fraction == max(config.fractions) and cell.seed == config.seeds[0]
    changed.pictures.draw = changed.pictures.draw and largest  # of all cells t-SNE takes minutes
    _keep(changed, workdir / cell.folder / "config.json")
    return changed


def _keep(changed, path: Path) -> None:
    """Leaves a cell that was begun what a grid that grew would change, and no score depends on."""
    names = ("pictures",) if changed.encoder == "random" else ("pictures", "model", "image_size")
    try:
        saved = read_json(path)
        with changed.unlocked():
            for name in names:
                changed[name] = saved[name]
    except (OSError, ValueError, TypeError, KeyError):  # new, or damaged: running it will tell
        return


def _make_room(folder: Path, of_cell, held: "_Held") -> None:
    """Moves aside what another encoder left in the cell's folder: the grid's encoders changed."""
    try:
        saved = with_added(read_json(folder / "config.json"))
        held.of(of_cell)
    except (OSError, ValueError):  # new, damaged, or no encoder to replace it: running it will tell
        return
    of_encoder = [
        f"config.{name} was {old}, is {new}"
        for name, old, new in _workdir.changes(saved, as_json(of_cell))
        if name.partition(".")[0] in ("encoder", "model", "image_size")
    ]
    if of_encoder:
        places = (folder.with_name(f"{folder.name}~{n}") for n in itertools.count(1))
        aside = next(place for place in places if not place.exists())
        folder.rename(aside)
        print(f"{'; '.join(of_encoder)}: made anew; what was there is in {aside.name}")


def _groups(configs: Mapping[Cell, Any], workdir: Path, held: "_Held") -> dict[Cell, list[Cell]]:
    """Returns first cell of a group -> the cells, two or more, that can be fitted together.

    They are not done and equal except for label fraction and seed; random weights differ by seed.
    """
    together: dict[Cell, list[Cell]] = {}
    for cell, of_cell in configs.items():
        if not _is_done(workdir / cell.folder, of_cell, held) and transfer.can_share(of_cell):
            seed = cell.seed if cell.spec == "random" else 0
            together.setdefault(cell._replace(fraction=0.0, seed=seed), []).append(cell)
    return {group[0]: group for group in together.values() if len(group) > 1}


def _run_group(
    configs: Mapping[Cell, Any], group: list[Cell], workdir: Path, held: "_Held"
) -> list[Cell]:
    """Runs the transfers of a group together; returns all its cells, or none where one failed."""
    start = time.monotonic()
    folders = [workdir / cell.folder for cell in group]
    for cell, folder in zip(group, folders):
        _make_room(folder, configs[cell], held)
    try:
        of_group = [configs[cell] for cell in group]
        transfer.run_together(of_group, folders, held.encoder(of_group[0]))
    except Exception as error:  # one cell may be at fault: run alone, the others finish
        print(f"not together: {error}; now one by one", flush=True)
        return []
    for folder in folders:
        _finish(folder, (time.monotonic() - start) / len(group))
    return group


def _run_cell(of_cell, cell: Cell, workdir: Path, held: "_Held") -> dict[str, Any]:
    """Runs one transfer, or takes its result from before; returns its state for cells.json."""
    folder = workdir / cell.folder
    if _is_done(folder, of_cell, held):
        print("done before")
        return _facts(folder, cell, of_cell)
    _make_room(folder, of_cell, held)
    start = time.monotonic()
    try:
        transfer.run(of_cell, folder, page=False, encoders=[held.encoder(of_cell)])
    except Exception as error:  # whatever it was: the other cells go on, and the report says so
        print(f"failed: {error}", flush=True)
        release(folder)
        return {"state": "failed", "error": f"{type(error).__name__}: {error}"}
    _finish(folder, time.monotonic() - start)
    return _facts(folder, cell, of_cell)


class _Held:
    """Encoders and splits, loaded once: a workdir that is trained on meanwhile changes no cell."""

    def __init__(self):
        self._encoders, self._splits = {}, {}

    def encoder(self, of_cell) -> Encoder:
        drawn = of_cell.seed if of_cell.encoder == "random" else 0
        key = (of_cell.encoder, drawn)
        if key not in self._encoders:
            (encoder,) = _transfer_inputs.load_encoders(of_cell)
            # Random ones off the device. A text tower is of a checkpoint that may be gone later.
            encoder = encoder._replace(variables=jax.device_get(encoder.variables))
            text = encoder.text and functools.cache(encoder.text)
            self._encoders[key] = encoder._replace(text=text)
        return self._encoders[key]

    def of(self, of_cell) -> tuple[str, tuple[str, ...]]:
        """Returns what _transfer_inputs.fingerprint says of a transfer, and its labels."""
        dataset = tuple(of_cell[field] for field in ("protocol", "dataset", "task", *OWN))
        if dataset not in self._splits:
            self._splits[dataset] = _transfer_inputs.load_whole_splits(of_cell)
        whole = self._splits[dataset]
        splits = _transfer_inputs.cut(whole, _transfer_inputs.training_rows(of_cell, whole))
        found = _transfer_inputs.fingerprint(of_cell, self.encoder(of_cell), splits)
        return found, splits.test.label_names


def _is_done(folder: Path, of_cell, held: _Held) -> bool:
    """Checks that the cell ran to its end, with this config and today's encoder and dataset."""
    if not (folder / LAST).is_file():
        return False
    try:
        saved = with_added(read_json(folder / "config.json"))
        # Places may be written otherwise: the fingerprint knows the encoder, and a grid may move.
        places = {"encoder": of_cell.encoder, "feature_cache": of_cell.feature_cache}
        if saved | places != as_json(of_cell):
            return False
        read_json(folder / "metrics.json", list)
        predictions = read_parquet(folder / "predictions.parquet")
        facts = read_json(folder / "probe.json")
        return transfer.is_of(facts, predictions, *held.of(of_cell))
    except (ValueError, OSError):  # damaged, or an encoder that is gone: running it will tell
        return False


def _finish(folder: Path, seconds: float) -> None:
    """Marks the cell as run to its end, and releases its folder."""
    atomic_write_text(folder / LAST, json.dumps(round(seconds, 1)))
    release(folder)


def _facts(folder: Path, cell: Cell, of_cell) -> dict[str, Any]:
    facts = read_json(folder / "probe.json")
    folds_of = of_cell.folds_of if "folds" in facts else ""
    test = load_source(cell.dataset, of_cell.data.dir, folds_of or "test", fields=("image",))
    exposed = None
    if (seen := seen_images.seen_by_encoder(cell.spec, test)) is not None:
        patients = None if seen.patient is None else int(seen.patient.sum())
        exposed = dict(patients=patients, images=int(seen.image.sum()), test_images=len(test))
    num_images = 0
    if _transfer_inputs.protocol(of_cell).learns:
        num_images = facts.get("num_images", facts.get("num_films"))
    note = dataset_info.patient_note(test.metadata)
    found = {"state": "done", "num_images": num_images, "seen": exposed, "patient_note": note}
    return found | {"splits": test.metadata.get("splits_csv", ""), "folds_of": folds_of}


def _log(config, workdir: Path, done: list[Path]) -> None:
    """Writes the mean of every cell that is done to metrics.jsonl and the loggers."""
    found = {}
    for folder in done:
        row = read_json(workdir / folder / "metrics.json", list)[-1]
        if (macro := tables.value(row)) is not None:
            found[f"{folder.relative_to('cells')}/macro_{tables.key(row)}"] = macro
    flat_config = dict(flat(as_json(config)))
    write_results(workdir, config.transfer.loggers, flat_config, len(done), [found], {})


def _write(config, workdir: Path, cells: list[Cell], states: dict[Cell, dict[str, Any]]) -> None:
    entries = []
    for cell in cells:
        blank = {"state": "missing", "num_images": None, "seen": None, "error": ""}
        task, at, own = cell.task.partition("@")
        said = {"task": (task or config.transfer.task) + at + own, "folder": cell.folder.as_posix()}
        entry = cell._asdict() | said | blank | states.get(cell, {})
        entries.append(entry | {"error": without_ids(entry["error"])})
    resamples = config.transfer.num_resamples
    held = {"reference": config.reference, "num_resamples": resamples, "cells": entries}
    atomic_write_text(workdir / "cells.json", json.dumps(held, indent=2))

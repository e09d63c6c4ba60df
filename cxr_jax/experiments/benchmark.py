"""Benchmark: a grid of transfers, cell by cell; a cell that fails does not stop the others.

The workdir holds cells/<dataset>/<protocol>/<fraction>/<seed>/<encoder>/, each the workdir of a
transfer, cells.json with the state of the grid, and the report, which is made from these alone
(`python -m cxr_jax.report WORKDIR` makes it again). The same command goes on where it was stopped
and tries failed cells again.
"""

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from cxr_jax import weights
from cxr_jax.data import exposure
from cxr_jax.data.source import load_source
from cxr_jax.experiments import transfer
from cxr_jax.experiments.workdir import as_json, open_workdir
from cxr_jax.report import benchmark as report

_NAME = re.compile(r"[\w.-]+")


class Cell(NamedTuple):
    """One transfer of the grid."""

    encoder: str
    spec: str
    dataset: str
    task: str
    protocol: str
    fraction: float
    seed: int

    @property
    def folder(self) -> Path:
        """Below the workdir."""
        dataset = "-".join(part for part in (self.dataset.replace("/", "-"), self.task) if part)
        places = (dataset, self.protocol, f"{self.fraction:g}", str(self.seed), self.encoder)
        return Path("cells", *places)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Runs the cells that are not done and writes the report.

    Raises:
      ValueError: the grid makes no sense; nothing has been run then.
    """
    cells = grid(config)
    shape = _shape(config, cells)
    if config.dry_run:
        print(_plan(config, cells, workdir))
        return
    saved = config.copy_and_resolve_references()
    with saved.unlocked():
        del saved.dry_run  # a grid that was looked at is the same grid
    open_workdir(workdir, saved)
    states: dict[Cell, dict[str, Any]] = {}
    groups, fresh = _groups(config, cells, shape, workdir), set()
    for number, cell in enumerate(cells, start=1):
        print(f"\n[{number} of {len(cells)}] {cell.folder}", flush=True)
        if cell in groups:
            fresh.update(_run_group(config, groups[cell], shape, workdir))
        states[cell] = (
            _facts(workdir / cell.folder, cell, config)
            if cell in fresh
            else _run_cell(config, cell, shape, workdir)
        )
        _write(config, workdir, cells, states)
    failed = [cell for cell in cells if states[cell]["state"] == "failed"]
    for cell in failed:
        print(f"FAILED {cell.folder}: {states[cell]['error']}")
    if len(failed) == len(cells):
        raise ValueError(f"all {len(cells)} cells failed; the first: {states[cells[0]]['error']}")
    path = report.write(workdir)
    again = " The same command tries the failed cells again." if failed else ""
    print(f"\n{len(cells) - len(failed)} of {len(cells)} cells are done.{again}")
    print(f"Read the report: {path}")


def grid(config: ml_collections.ConfigDict) -> list[Cell]:
    """The cells in the order in which they run: those that share features follow each other.

    A probe of all labels does not depend on the seed and stands once.

    Raises:
      ValueError: a field that is empty or malformed, a reference that is not among the encoders.
    """
    encoders = dict(_named(spec) for spec in _list(config.encoders, "encoders"))
    if config.reference not in encoders:
        raise ValueError(
            f"config.reference={config.reference!r} is none of the encoders {', '.join(encoders)}"
        )
    cells = []
    for dataset, (name, spec), protocol, fraction, seed in itertools.product(
        _list(config.datasets, "datasets"),
        encoders.items(),
        _list(config.protocols, "protocols"),
        config.fractions,
        config.seeds,
    ):
        if fraction == 1 and protocol != "finetune" and seed != config.seeds[0]:
            continue
        dataset, _, task = dataset.partition(":")
        cells.append(Cell(name, spec, dataset, task, protocol, float(fraction), int(seed)))
    if not cells:
        raise ValueError("config.fractions and config.seeds must each hold a number")
    return cells


def _list(value: str, field: str) -> list[str]:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"config.{field} is empty; name some, separated by commas")
    if twice := {part for part in parts if parts.count(part) > 1}:
        raise ValueError(f"config.{field} names {', '.join(sorted(twice))} twice")
    return parts


def _named(spec: str) -> tuple[str, str]:
    """ "simclr=runs/simclr" -> ("simclr", "runs/simclr"); "random" names itself."""
    name, separator, path = spec.partition("=")
    if not separator and spec != "random":
        raise ValueError(f"config.encoders: {spec!r}: write NAME=SPEC, as in simclr={spec}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"config.encoders: {name!r}: a name has letters, digits, '_', '-' and '.'")
    return name, path if separator else "random"


def _shape(config, cells: list[Cell]) -> dict[str, Any]:
    """Architecture and image size of the random encoder: the first workdir's, else the config's."""
    for spec in dict.fromkeys(cell.spec for cell in cells):
        if Path(spec).expanduser().is_dir():
            encoder = weights.load(spec)
            return {"model": encoder.model, "image_size": encoder.image_size}
    return {"model": config.transfer.model.to_dict(), "image_size": config.transfer.image_size}


def _config_of(config, cell: Cell, shape: dict[str, Any], workdir: Path):
    changed = config.transfer.copy_and_resolve_references()
    with changed.unlocked():
        changed.model = shape["model"]
    changed.update(
        encoder=cell.spec,
        baselines="",
        dataset=cell.dataset,
        task=cell.task or config.transfer.task,
        protocol=cell.protocol,
        label_fraction=cell.fraction,
        seed=cell.seed,
        image_size=shape["image_size"],
        feature_cache=str(workdir / "features"),
    )
    largest = cell.fraction == max(config.fractions) and cell.seed == config.seeds[0]
    changed.pictures.draw = changed.pictures.draw and largest  # of all cells t-SNE takes minutes
    return changed


def _groups(
    config, cells: list[Cell], shape: dict[str, Any], workdir: Path
) -> dict[Cell, list[Cell]]:
    """First cell of a group -> the cells that are not done and can be fitted together: 2 or more.

    Equal but for label fraction and seed; random weights are others with every seed.
    """
    together: dict[Cell, list[Cell]] = {}
    for cell in cells:
        of_cell = _config_of(config, cell, shape, workdir)
        if not _is_done(workdir / cell.folder, of_cell) and transfer.can_share(of_cell):
            seed = cell.seed if cell.spec == "random" else 0
            together.setdefault(cell._replace(fraction=0.0, seed=seed), []).append(cell)
    return {group[0]: group for group in together.values() if len(group) > 1}


def _run_group(config, group: list[Cell], shape: dict[str, Any], workdir: Path) -> list[Cell]:
    """Runs the transfers of a group together; returns the cells that are done then.

    Those are all or none: where one fails they are left to be run one by one.
    """
    start = time.monotonic()
    folders = [workdir / cell.folder for cell in group]
    try:
        configs = [_config_of(config, cell, shape, workdir) for cell in group]
        transfer.run_together(configs, folders)
    except Exception as error:  # one cell may be at fault: alone, the others do not suffer from it
        print(f"not together: {error}; now one by one", flush=True)
        return []
    share = round((time.monotonic() - start) / len(group), 1)
    for folder in folders:
        (folder / "seconds.json").write_text(json.dumps(share))
    return group


def _run_cell(config, cell: Cell, shape: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Runs one transfer, or takes up its result; says in what state it is then."""
    folder, of_cell = workdir / cell.folder, _config_of(config, cell, shape, workdir)
    if _is_done(folder, of_cell):
        print("done before")
        return _facts(folder, cell, config)
    start = time.monotonic()
    try:
        transfer.run(of_cell, folder)
    except Exception as error:  # whatever it was: the other cells go on, and the report says so
        print(f"failed: {error}", flush=True)
        return {"state": "failed", "error": f"{type(error).__name__}: {error}"}
    (folder / "seconds.json").write_text(json.dumps(round(time.monotonic() - start, 1)))
    return _facts(folder, cell, config)


def _is_done(folder: Path, of_cell) -> bool:
    if not (folder / "probe.json").is_file():
        return False
    return json.loads((folder / "config.json").read_text()) == as_json(of_cell)


def _facts(folder: Path, cell: Cell, config) -> dict[str, Any]:
    facts = json.loads((folder / "probe.json").read_text())
    test = load_source(cell.dataset, config.data.dir, "test", fields=("image",))
    seen = exposure.of_encoder(cell.spec, test)
    exposed = None
    if seen is not None:
        exposed = {
            "patients": None if seen.patient is None else int(seen.patient.sum()),
            "films": int(seen.film.sum()),
            "test_films": len(test),
        }
    return {"state": "done", "num_films": facts["num_films"], "exposure": exposed}


def _write(config, workdir: Path, cells: list[Cell], states: dict[Cell, dict[str, Any]]) -> None:
    missing = {"state": "missing"}
    entries = [
        {
            **cell._asdict(),
            "folder": cell.folder.as_posix(),
            "num_films": None,
            "exposure": None,
            "error": "",
            **states.get(cell, missing),
        }
        for cell in cells
    ]
    path = workdir / "cells.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"reference": config.reference, "cells": entries}, indent=2))
    temporary.replace(path)


def _plan(config, cells: list[Cell], workdir: Path) -> str:
    """The grid in words, what is done, and how long finished cells of its kind took."""
    lines = [f"{len(cells)} cells:"]
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        for name in dict.fromkeys(cell.encoder for cell in cells):
            of = [cell for cell in cells if (cell.protocol, cell.encoder) == (protocol, name)]
            taken = [
                json.loads(path.read_text())
                for cell in of
                if (path := workdir / cell.folder / "seconds.json").is_file()
            ]
            left = len(of) - len(taken)
            cost = "cost unknown"
            if taken:
                cost = f"about {left * sum(taken) / len(taken):,.0f} s left"
            lines.append(f"  {protocol:<10}{name:<16}{len(of):>4} cells, {len(taken)} done, {cost}")
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        sizes = ", ".join(
            f"{len(load_source(dataset, config.data.dir, split, fields=('image',))):,} {split}"
            for split in ("train", "validation", "test")
        )
        lines.append(f"  {dataset}: {sizes} films, read once an encoder for all linear probes")
    return "\n".join([*lines, "", "Next: the same command without --config.dry_run."])

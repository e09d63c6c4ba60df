"""The cells of a benchmark (encoders x datasets x protocols x fractions x seeds) and its plan."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import ml_collections

from cxr_jax import weights
from cxr_jax.data import splits, tasks
from cxr_jax.data.source import load_source

LAST = "seconds.json"  # how long a cell took; the last file that it writes
_NAME = re.compile(r"[\w.-]*[\w-][\w.-]*")  # not "..", which is a folder


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
        """The cell's folder below the workdir."""
        dataset = "-".join(part for part in (self.dataset.replace("/", "-"), self.task) if part)
        places = (dataset, self.protocol, f"{self.fraction:g}", str(self.seed), self.encoder)
        return Path("cells", *places)


def grid(config: ml_collections.ConfigDict) -> list[Cell]:
    """Returns the cells in the order in which they run; those that share features are neighbours.

    A probe of all labels draws nothing, so it has one cell, with the first seed. Raises ValueError
    for fields that are empty, malformed, repeat themselves or do not fit a grid.
    """
    named = [_named(spec) for spec in _list(config.encoders, "encoders")]
    _once([name for name, _ in named], "encoders")
    encoders = dict(named)
    for fraction in config.fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"config.fractions has {fraction}: shares lie above 0, at most at 1")
    _once([f"{fraction:g}" for fraction in config.fractions], "fractions")
    _once([str(seed) for seed in config.seeds], "seeds")
    if config.transfer.pictures.images:
        raise ValueError(
            "config.transfer.pictures.images names images of one dataset: give them to a transfer "
            "(configs/transfer.py)"
        )
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
    _once(parts, field)
    return parts


def _once(parts: list[str], field: str) -> None:
    if twice := {part for part in parts if parts.count(part) > 1}:
        raise ValueError(f"config.{field} names {', '.join(sorted(twice))} twice")


def _named(spec: str) -> tuple[str, str]:
    """Splits "simclr=runs/simclr" into ("simclr", "runs/simclr"); "random" names itself."""
    name, separator, path = spec.partition("=")
    if not separator and spec != "random":
        raise ValueError(f"config.encoders: {spec!r}: write NAME=SPEC, as in simclr={spec}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"config.encoders: {name!r}: a name has letters, digits, '_', '-' and '.'")
    return name, path if separator else "random"


def _obstacles(config, cells: list[Cell]) -> list[str]:
    """Returns what cells would fail for: encoders, datasets and tasks that are not there (yet)."""

    def missing(name, load, *arguments):
        try:
            load(*arguments)
        except (ValueError, OSError) as error:
            return [f"  WOULD FAIL: {name}: {error}"]
        return []

    lines = []
    for name, spec in dict.fromkeys((cell.encoder, cell.spec) for cell in cells):
        if spec != "random":
            lines += missing(name, weights.load, spec)
    for dataset, task in dict.fromkeys((cell.dataset, cell.task) for cell in cells):
        wanted, changes = task or config.transfer.task, tasks.changes_of(config.transfer)
        where = (dataset, config.data.dir, "test", wanted, changes)
        lines += missing(dataset, splits.load_split, *where)
    return lines


def plan(config: ml_collections.ConfigDict, cells: list[Cell], workdir: Path) -> str:
    """Returns the grid in words: what is done, what would fail, and the seconds that are left."""
    lines = [f"{len(cells)} cells (with all patients, frozen features need one seed):"]
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        for name in dict.fromkeys(cell.encoder for cell in cells):
            of = [cell for cell in cells if (cell.protocol, cell.encoder) == (protocol, name)]
            files = [workdir / cell.folder / LAST for cell in of]
            taken = [_seconds(path) for path in files if path.is_file()]
            seconds = (len(of) - len(taken)) * sum(taken) / max(len(taken), 1)
            cost = f"about {seconds:,.0f} s left" if taken else "cost unknown"
            lines.append(f"  {protocol:<10}{name:<16}{len(of):>4} cells, {len(taken)} done, {cost}")
    obstacles = _obstacles(config, cells)
    for dataset in dict.fromkeys(cell.dataset for cell in cells) if not obstacles else ():
        sizes = ", ".join(
            f"{len(load_source(dataset, config.data.dir, split, fields=('image',))):,} {split}"
            for split in ("train", "validation", "test")
        )
        lines.append(f"  {dataset}: {sizes} images, read once per encoder for all linear probes")
    last = "fix these, or run the rest as it is" if obstacles else "the same command"
    return "\n".join([*lines, *obstacles, "", f"Next: {last}, without --config.dry_run."])


def _seconds(path: Path) -> float:
    try:
        return float(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged; remove it to run that cell again") from error

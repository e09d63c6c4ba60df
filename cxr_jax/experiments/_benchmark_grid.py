"""The cells of a benchmark: encoders x datasets x protocols x label fractions x seeds."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import ml_collections

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
        """Below the workdir."""
        dataset = "-".join(part for part in (self.dataset.replace("/", "-"), self.task) if part)
        places = (dataset, self.protocol, f"{self.fraction:g}", str(self.seed), self.encoder)
        return Path("cells", *places)


def grid(config: ml_collections.ConfigDict) -> list[Cell]:
    """The cells in the order in which they run: those that share features follow each other.

    A probe of all labels draws nothing and stands once, with the first seed.

    Raises:
      ValueError: a field that is empty, malformed or says something twice, a reference that is not
        among the encoders, images named for pictures.
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
    """ "simclr=runs/simclr" -> ("simclr", "runs/simclr"); "random" names itself."""
    name, separator, path = spec.partition("=")
    if not separator and spec != "random":
        raise ValueError(f"config.encoders: {spec!r}: write NAME=SPEC, as in simclr={spec}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"config.encoders: {name!r}: a name has letters, digits, '_', '-' and '.'")
    return name, path if separator else "random"

"""The difference from the reference over all datasets of a benchmark, by random effects."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxr_jax.report import tables
from cxr_jax.report.benchmark.grid import Grid, percent
from cxr_jax.report.benchmark.scores import MARGIN, Measured, Score
from cxr_jax.report.benchmark.tables import Verdicts, title_of, verdict_cell, write_csv
from cxr_jax.report.blocks import Block, Heading, Table, Text
from cxr_jax.stats.random_effects import MINIMUM, Pooled, pool


class Overall(NamedTuple):
    """One encoder against the reference over the datasets that show a difference and its error.

    `left_out` are the other datasets of the grid; `shared` patients are in more than one of the
    test sets. `pooled` is None where the datasets are too few.
    """

    protocol: str
    fraction: float
    encoder: str
    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    shared: int
    pooled: Pooled | None


def measure(
    verdicts: Mapping[tuple[str, float], Verdicts], measured: Measured, grid: Grid
) -> list[Overall]:
    """Pools the differences of every protocol, fraction (the largest first) and encoder."""
    found = []
    for protocol in grid.protocols:
        for encoder in grid.encoders[1:]:
            for fraction in reversed(grid.fractions(protocol)):
                held = {
                    dataset: one
                    for (name, dataset), one in verdicts[protocol, fraction].items()
                    if name == encoder and one.standard_error > 0  # not NaN
                }
                numbers = [(one.difference, one.standard_error) for one in held.values()]
                pooled = None
                if len(held) >= MINIMUM:
                    places = [measured.places[protocol, name, fraction].scores for name in held]
                    several = _pretrainings(places, encoder, grid)
                    pooled = pool(*np.transpose(numbers), MARGIN, pretrainings=several)
                sets = Counter(one for name in held for one in measured.patients[protocol, name])
                shared = sum(count > 1 for count in sets.values())
                left_out = tuple(name for name in grid.datasets if name not in held)
                place = protocol, fraction, encoder, tuple(held), left_out
                found.append(Overall(*place, shared, pooled))
    return found


def _pretrainings(
    places: Sequence[Mapping[str, Score]], encoder: str, grid: Grid
) -> list[np.ndarray]:
    """Returns [pretrainings datasets] of the encoder and of the reference, where there are several.

    Not of one that lacks a pretraining on a dataset: which of them it has is not known there.
    """
    found = []
    for name in (encoder, grid.reference):
        count = grid.pretrainings(name)
        if count > 1 and all(scores[name].pretrainings == count for scores in places):
            means = [scores[name].of_pretrainings for scores in places]
            found.append(np.stack(means, axis=1))
    return found


def sentences(found: Sequence[Overall], grid: Grid, protocol: str) -> list[str]:
    """Returns one sentence per encoder on the largest fraction; none where nothing is pooled."""
    largest = grid.fractions(protocol)[-1]
    return [
        f"**{one.encoder}**, {title_of(protocol).lower()}, over {len(one.datasets)} datasets: "
        f"{one.pooled.verdict}, {tables.with_interval(one.pooled._asdict(), 'difference')}."
        for one in sorted(found, key=lambda one: one.encoder == tables.RANDOM)
        if one.pooled and (one.protocol, one.fraction) == (protocol, largest)
    ]


def blocks(workdir: Path, found: Sequence[Overall], grid: Grid) -> list[Block]:
    """Returns their section and writes tables/pooled.csv; where nothing is pooled it says so."""
    write_csv(workdir, "pooled", [_line(one) for one in found if one.pooled])
    if not any(one.datasets for one in found):
        return []
    title = Heading("Over all datasets", 3)
    if not any(one.pooled for one in found):
        said = (
            f"The differences are not pooled: {MINIMUM} datasets are needed to see how far they "
            f"differ from each other, and {max(len(one.datasets) for one in found)} can be used."
        )
        return [title, Text(said)]
    rows = [_cells(one) for one in found]
    header = ["", "encoder", "training patients", "datasets", "over all datasets"]
    header += ["SD between datasets", "I²", "a new dataset"]
    return [title, Table(header, rows, _caption(found, grid))]


def _cells(one: Overall) -> list[str]:
    first = [title_of(one.protocol), one.encoder, percent(one.fraction), f"{len(one.datasets)}"]
    if one.pooled is None:
        return [*first, "too few datasets", "–", "–", "–"]
    spread, held = tables.number(one.pooled.tau2**0.5), one.pooled
    new = f"{tables.signed(held.new_low)} to {tables.signed(held.new_high)}"
    return [*first, verdict_cell(held), spread, percent(round(held.i2, 2)), new]


def _caption(found: Sequence[Overall], grid: Grid) -> str:
    text = (
        f"Mean difference from {grid.reference} over datasets, each with its own true difference "
        "(random effects), 95 % interval. “A new dataset”: where its true difference would lie, "
        "19 times in 20."
    )
    if left_out := sorted({name for one in found for name in one.left_out}):
        text += f" Not in every row: {', '.join(left_out)}, without a difference that has an error."
    if shared := max(one.shared for one in found):
        text += (
            f" {shared:,} patients are in the test sets of more than one dataset. These are not "
            "independent, and the intervals are narrower than they should be."
        )
    return text


def _line(one: Overall) -> dict:
    line = dict(protocol=one.protocol, fraction=one.fraction, encoder=one.encoder)
    line |= one.pooled._asdict()
    return line | dict(datasets=";".join(one.datasets), shared_patients=one.shared)

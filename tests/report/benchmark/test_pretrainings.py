"""Several pretrainings as one encoder of a grid, against sums written out."""

import csv

import numpy as np
import pytest
import scipy.stats

from cxr_jax.report.benchmark import page, text
from cxr_jax.report.benchmark.scores import equivalences, verdicts
from cxr_jax.transfer.predictions import read_parquet
from tests.fakes import benchmark as fake
from tests.report.benchmark.measured import DATASETS, macro, measured, of


def with_pretrainings(tmp_path, signals, datasets=DATASETS[:1]):
    """A grid whose encoders p0, p1, ... become the pretrainings of one, "mine"."""
    cells = fake.grid(tmp_path, signals, datasets, n=160)
    for cell in cells:
        if cell["encoder"].startswith("p"):
            cell.update(pretraining=int(cell["encoder"][1:]), encoder="mine")
    return cells


def test_intervals_hold_the_variance_between_pretrainings(tmp_path):
    cells = with_pretrainings(tmp_path, {"imagenet": 1.0, "p0": 0.9, "p1": 1.4, "p2": 2.0})
    grid, found = measured(tmp_path, cells, 4000)
    assert grid.encoders == ["imagenet", "mine"]
    place = found.places["linear", DATASETS[0], 1.0]
    score, reference = place.scores["mine"], place.scores["imagenet"]
    files = {
        (cell["pretraining"], cell["seed"]): read_parquet(
            tmp_path / cell["folder"] / "predictions.parquet"
        )
        for cell in of(cells, encoder="mine", fraction=1.0)
    }
    each = np.array(
        [
            np.mean(
                [macro(files[number, seed].targets, files[number, seed].scores) for seed in (0, 1)]
            )
            for number in range(3)
        ]
    )
    assert score.mean == pytest.approx(each.mean()) and score.seeds == (0, 1)
    between = each.var(ddof=1) / 3
    apart = score.within - reference.within
    within = apart.var(ddof=1)
    assert between > within  # the signals are far apart
    one = verdicts(found, grid, "linear", 1.0)["mine", DATASETS[0]]
    assert one.standard_error == pytest.approx(np.sqrt(within + between), rel=0.03)
    freedom = (within + between) ** 2 / (within**2 / reference.freedom + between**2 / 2)
    half = scipy.stats.t.ppf(0.975, freedom) * one.standard_error
    assert one.high - one.low == pytest.approx(2 * half, rel=1e-6)
    # Label equivalence too: with the first pretraining alone its interval is narrower.
    alone = [cell for cell in cells if not cell.get("pretraining")]
    (tmp_path / "cells.json").unlink()
    grid_alone, found_alone = measured(tmp_path, alone, 4000)
    widths = [
        (lambda held: held.high / held.low)(equivalences(f, g, "linear", DATASETS[0], "mine")[0])
        for g, f in ((grid, found), (grid_alone, found_alone))
    ]
    assert widths[0] > widths[1]


def test_seeds_that_not_all_pretrainings_have_are_left_out(tmp_path):
    cells = with_pretrainings(tmp_path, {"imagenet": 1.0, "p0": 1.0, "p1": 1.4, "p2": 2.0})
    for cell in of(cells, encoder="mine", fraction=1.0):
        if cell["pretraining"] == 2 or (cell["pretraining"], cell["seed"]) == (1, 0):
            cell.update(state="failed", error="lost")
    _, found = measured(tmp_path, cells)
    score = found.places["linear", DATASETS[0], 1.0].scores["mine"]
    assert score.seeds == (1,) and score.pretrainings == 2
    rows = text.problems(found.failed)
    assert [row[0] for row in rows] == ["mine, pretraining 2", "mine, pretraining 3"]
    page.write(tmp_path, 100)
    said = (tmp_path / "benchmark.md").read_text()
    assert "Of mine (3) several pretrainings of one recipe were run" in said
    where = f"{DATASETS[0]}, linear, 100 % of the training patients"
    assert f"{where}: of mine's 3 pretrainings 2 have a result" in said
    assert said.count("of mine's") == 1  # at 10 % all have one
    (line,) = [
        line
        for line in csv.DictReader((tmp_path / "tables" / "scores.csv").open())
        if (line["encoder"], line["fraction"]) == ("mine", "1.0")
    ]
    spread = score.by_pretraining[0].std(ddof=1)
    assert line["pretrainings"] == "2"
    assert float(line["sd_over_pretrainings"]) == pytest.approx(spread)

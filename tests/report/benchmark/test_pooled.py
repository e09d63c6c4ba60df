"""Differences over all datasets on the page, in its Markdown and its CSV."""

import csv

import numpy as np
import pytest

from cxr_jax.report.benchmark import page, pooled
from cxr_jax.report.benchmark.grid import read_grid
from cxr_jax.report.benchmark.scores import measure, verdicts
from cxr_jax.stats.random_effects import pool
from tests.fakes import benchmark as fake

SIGNALS = {"imagenet": 1.0, "simclr": 2.0}
NAMES = ("jsrt", "phantom", "montgomery", "shenzhen")


def write(folder, datasets):
    cells = fake.grid(folder, SIGNALS, datasets, seeds=(0,))
    fake.write_cells(folder, cells)
    page.write(folder, 200)
    return (folder / "benchmark.md").read_text()


def test_pooled_row_is_that_of_the_datasets_differences(tmp_path):
    text = write(tmp_path, ("jsrt", "phantom", "montgomery"))
    grid = read_grid(tmp_path)
    measured = measure(tmp_path, grid, 200)
    lines = list(csv.DictReader((tmp_path / "tables" / "pooled.csv").open()))
    assert [float(line["fraction"]) for line in lines] == [1.0, 0.1]
    for line in lines:
        alone = verdicts(measured, grid, "linear", float(line["fraction"])).values()
        expected = pool(*np.transpose([(one.difference, one.standard_error) for one in alone]))
        assert float(line["difference"]) == pytest.approx(expected.difference)
        assert float(line["low"]) == pytest.approx(expected.low)
        assert line["verdict"] == expected.verdict and line["num_datasets"] == "3"
        assert line["datasets"] == "jsrt;phantom;montgomery"
        assert f"| simclr | {100 * float(line['fraction']):g} % | 3 | {expected.verdict}" in text
    assert "**simclr**, linear probe, over 3 datasets: " in text
    # The fakes' datasets hold the same 40 patients.
    assert "40 patients are in the test sets of more than one dataset" in text
    assert "secret" not in text + (tmp_path / "tables" / "pooled.csv").read_text()


def test_two_datasets_are_not_pooled_and_the_page_says_why(tmp_path):
    text = write(tmp_path, ("jsrt", "phantom"))
    assert "not pooled: 3 datasets are needed" in text and "and 2 can be used" in text
    assert not (tmp_path / "tables" / "pooled.csv").exists()
    assert "over 2 datasets" not in text


def test_datasets_without_a_usable_difference_are_named(tmp_path):
    cells = fake.grid(tmp_path, SIGNALS, NAMES, seeds=(0,), fractions=(1.0,))
    next(c for c in cells if c["dataset"] == "phantom").update(state="missing", num_images=None)
    fake.write_cells(tmp_path, cells)
    grid = read_grid(tmp_path)
    measured = measure(tmp_path, grid, 200)
    found = {("linear", 1.0): verdicts(measured, grid, "linear", 1.0)}
    (one,) = pooled.measure(found, measured, grid)
    assert one.left_out == ("phantom",) and one.pooled.num_datasets == 3


def test_pretrainings_are_the_same_behind_every_dataset(tmp_path):
    signals = {"imagenet": 1.0, "p0": 0.6, "p1": 2.5}
    cells = fake.grid(tmp_path, signals, NAMES, seeds=(0,), fractions=(1.0,))
    for cell in cells:
        if cell["encoder"] != "imagenet":
            cell.update(pretraining=int(cell["encoder"][1:]), encoder="mine")
    fake.write_cells(tmp_path, cells)
    grid = read_grid(tmp_path)
    measured = measure(tmp_path, grid, 200)
    alone = verdicts(measured, grid, "linear", 1.0)
    (one,) = pooled.measure({("linear", 1.0): alone}, measured, grid)
    numbers = np.transpose([(one.difference, one.standard_error) for one in alone.values()])
    columns = [measured.places["linear", n, 1.0].scores["mine"].by_pretraining[0] for n in NAMES]
    expected = pool(*numbers, pretrainings=[np.transpose(columns)])
    assert one.pooled[1:] == pytest.approx(expected[1:]) and one.pooled.verdict == expected.verdict
    assert one.pooled.standard_error > pool(*numbers).standard_error

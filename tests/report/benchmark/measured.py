"""Scores of an invented grid, for the tests."""

import numpy as np
from sklearn.metrics import roc_auc_score

from cxr_jax.report.benchmark.grid import read_grid
from cxr_jax.report.benchmark.scores import measure
from cxr_jax.transfer.predictions import read_parquet, write_parquet
from tests.fakes import benchmark as fake

SIGNALS = {"simclr": 2.0, "imagenet": 1.0}
DATASETS = ("pediatric_pneumonia", "phantom")


def measured(workdir, cells, num_resamples=100):
    fake.write_cells(workdir, cells)
    grid = read_grid(workdir)
    return grid, measure(workdir, grid, num_resamples)


def of(cells, **fields):
    return [cell for cell in cells if all(cell[name] == value for name, value in fields.items())]


def macro(targets, scores):
    return np.mean([roc_auc_score(t, s) for t, s in zip(targets.T, scores.T)])


def rewrite(workdir, cell, change):
    path = workdir / cell["folder"] / "predictions.parquet"
    write_parquet(change(read_parquet(path)), path)

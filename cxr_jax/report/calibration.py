"""Calibration of predictions that are probabilities: rows of numbers, and reliability diagrams."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from cxr_jax.report import tables
from cxr_jax.report.figures import DPI, GREY, LINE, bare, legend, new_figure, style
from cxr_jax.stats import calibration
from cxr_jax.stats.calibration import Reliability
from cxr_jax.transfer.predictions import Predictions

NUM_BINS = 10
_MAX_LABELS = 6

METHOD = (
    "Brier: mean squared difference of probability and outcome, 0 is best. Skill: by which share "
    "it is better than always saying the label's share among these test images (0: no better; "
    "below 0: worse). ECE, the expected calibration error, is the mean distance of observed rate "
    f"and probability in {NUM_BINS} bins of equally many images; chance within bins adds to it, so "
    "that it is never 0 and is larger with fewer images: compare it only between models on the same "
    "images. The probabilities are as the model gives them, without recalibration."
)

READING = (
    "Do images that are given a probability of .3 have the finding three times in ten? The nearer "
    "to the diagonal, the better; above it a model says too little, below it too much. Each point "
    f"is one of {NUM_BINS} bins of equally many images (fewer points where probabilities are equal);"
    " light lines are Wilson's 95 % intervals of the observed rates, which take images as "
    "independent. AUROC sees nothing of this: it asks only how scores rank images."
)

HEADER = ("Brier, 95 % interval", "skill", "ECE", "mean probability", "observed rate")


class Calibration(NamedTuple):
    """One label's numbers, or as "macro" their means over labels; limits are of the Brier score."""

    label: str
    brier: float
    low: float
    high: float
    skill: float
    ece: float
    mean_probability: float
    observed_rate: float


def calibrate(
    predictions: Predictions, labels: Sequence[str], num_resamples: int
) -> list[Calibration]:
    """One row per label, and then one of their means; limits as patients are resampled.

    The predictions have all `labels`, with both classes. Raises ValueError where scores only rank.
    """
    probabilities = predictions.probabilities
    if probabilities is None:
        raise ValueError("scores that only rank images cannot be calibrated")
    columns = [predictions.label_names.index(label) for label in labels]
    probabilities, targets = probabilities[:, columns], predictions.targets[:, columns]
    replicates = calibration.bootstrap_brier(
        targets, probabilities, predictions.patient_id, num_resamples
    )
    rows = []
    for k, label in enumerate(labels):
        target, probability = targets[:, k], probabilities[:, k]
        known = ~np.isnan(target)
        rows.append(
            Calibration(
                label,
                calibration.brier(target, probability),
                *_limits(replicates[:, k]),
                calibration.brier_skill(target, probability),
                calibration.expected_calibration_error(target, probability, NUM_BINS),
                float(probability[known].mean()),
                float(target[known].mean()),
            )
        )
    means = Calibration("macro", *np.mean([row[1:] for row in rows], axis=0).tolist())
    low, high = _limits(replicates.mean(axis=1))
    return [*rows, means._replace(low=low, high=high)]


def _limits(values: np.ndarray) -> tuple[float, float]:
    usable = values[~np.isnan(values)]
    if not usable.size:
        return float("nan"), float("nan")
    low, high = np.quantile(usable, [0.025, 0.975])
    return float(low), float(high)


def cells(row: Calibration) -> list[str]:
    """Under HEADER; the interval on a second line."""
    limits = f"\n[{tables.number(row.low)}, {tables.number(row.high)}]"
    return [
        tables.number(row.brier) + ("" if math.isnan(row.low) else limits),
        tables.signed(row.skill),
        *map(tables.number, (row.ece, row.mean_probability, row.observed_rate)),
    ]


def left_out(ranking: Sequence[str]) -> str:
    """The sentence on those that `ranking_only` names."""
    return f"Left out: {', '.join(ranking)}, whose scores rank images but are not known to be probabilities."


def ranking_only(runs: Sequence[tuple[str, Predictions]]) -> list[str]:
    """The names of those whose scores are no probabilities."""
    return [name for name, predictions in runs if predictions.probabilities is None]


def reliability(
    path: Path, runs: Sequence[tuple[str, Predictions]], labels: Sequence[str]
) -> list[str]:
    """Observed rate against probability of the first labels, one panel each, to a PNG.

    Vertical lines are Wilson's intervals of the bins. `runs` are (name, predictions), in the order
    that decides colours; those that only rank are left out. Returns the labels drawn.
    """
    shown = list(labels[:_MAX_LABELS])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    width = 3.5 * columns + 0.5 if columns > 1 else 4.8
    height = 3.5 * rows + 0.7 if columns > 1 else 4.8
    figure, grid = new_figure(width, height, nrows=rows, ncols=columns)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, label in zip(grid.flat, shown):
        bins = {
            index: _bins(predictions, label)
            for index, (_, predictions) in enumerate(runs)
            if predictions.probabilities is not None
        }
        # A rare finding's probabilities would all lie in a corner of the unit square.
        farthest = max(max(held.mean_probability.max(), held.high.max()) for held in bins.values())
        end = min(1.0, math.ceil(20 * farthest) / 20)
        axes.plot([0, end], [0, end], color=GREY, linewidth=1, linestyle=":")
        for index, held in bins.items():
            colour, marker, line = style(index)
            axes.vlines(
                held.mean_probability, held.low, held.high, color=colour, alpha=0.3, linewidth=2.5
            )
            axes.plot(
                held.mean_probability,
                held.observed_rate,
                line,
                marker=marker,
                color=colour,
                linewidth=1.3,
                markersize=5,
                label=runs[index][0],
            )
        limits = (-0.02 * end, 1.02 * end)  # whole markers at the edges
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set_title(label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel("mean probability of the bin")
        axes.set_ylabel("observed rate")
        axes.grid(color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        bare(axes)
    names = [name for name, predictions in runs if predictions.probabilities is not None]
    legend(figure, grid.flat[0], names, width)
    figure.savefig(path, dpi=DPI)
    return shown


def _bins(predictions: Predictions, label: str) -> Reliability:
    column = predictions.label_names.index(label)
    return calibration.reliability(
        predictions.targets[:, column], predictions.probabilities[:, column], NUM_BINS
    )

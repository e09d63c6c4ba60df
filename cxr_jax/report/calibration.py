"""Calibration of predictions that are probabilities: numbers and reliability diagrams."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cxr_jax.report import tables
from cxr_jax.report.blocks import Block, Picture, Table, Text
from cxr_jax.report.figures import bare, multiples, style
from cxr_jax.report.svg import GREY
from cxr_jax.stats import calibration
from cxr_jax.transfer.predictions import Predictions

_NUM_BINS = 10

READING = (
    "Do images that are given a probability of .3 have the finding three times in ten? The nearer "
    "to the diagonal, the better: above it probabilities are too low, below it too high. A point "
    f"is one of {_NUM_BINS} bins of equally many images (fewer where probabilities are equal). "
    "Light lines are Wilson's 95 % intervals of the observed rates, which take images as "
    "independent. AUROC says nothing about this: it only asks how scores rank images.",
    "Brier: the mean squared difference of probability and outcome; 0 is best. Skill: how much "
    "better than always giving the label's share among these test images (0: no better, below 0: "
    "worse). ECE, the expected calibration error: the mean distance of observed rate and "
    f"probability in {_NUM_BINS} bins of equally many images. Chance alone keeps it above 0, more "
    "so with fewer images: compare it only between models on the same images. Probabilities are as "
    "the model gives them, not recalibrated.",
)

_HEADER = ("Brier, 95 % interval", "skill", "ECE", "mean probability", "observed rate")


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
    """Returns one row per label, then one of their means; limits as patients are resampled.

    The predictions have all `labels`, with both classes. Raises ValueError where scores only rank.
    """
    probabilities = predictions.probabilities
    if probabilities is None:
        raise ValueError("scores that only rank images cannot be calibrated")
    columns = [predictions.label_names.index(label) for label in labels]
    probabilities, targets = probabilities[:, columns], predictions.targets[:, columns]
    patients = predictions.patient_id
    replicates = calibration.bootstrap_brier(targets, probabilities, patients, num_resamples)
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
                calibration.expected_calibration_error(target, probability, _NUM_BINS),
                float(probability[known].mean()),
                float(target[known].mean()),
            )
        )
    means = Calibration("macro", *np.mean([row[1:] for row in rows], axis=0).tolist())
    low, high = _limits(replicates.mean(axis=1))
    return [*rows, means._replace(low=low, high=high)]


def _limits(values: np.ndarray) -> tuple[float, float]:
    usable = values[~np.isnan(values)]
    return tuple(np.quantile(usable, [0.025, 0.975]).tolist()) if usable.size else (np.nan, np.nan)


def blocks(
    path: Path,
    runs: Sequence[tuple[str, Predictions]],
    labels: Sequence[str],
    num_resamples: int,
    caption: str,
    every_label: bool = True,
) -> tuple[list[Block], dict[str, list[Calibration]]]:
    """Returns a diagram (drawn to `path`) and a table, and by name the rows of `calibrate`.

    `runs` are (name, predictions) in the order that decides colours; those that only rank images
    are named and left out. `caption` goes on with the labels drawn. The table has every label and
    the mean, or the mean alone.
    """
    ranking = [name for name, predictions in runs if predictions.probabilities is None]
    what = "whose scores rank images but are not known to be probabilities"
    parts: list[Block] = [Text(f"Left out: {', '.join(ranking)}, {what}.")] if ranking else []
    found = {
        name: calibrate(predictions, labels, num_resamples)
        for name, predictions in runs
        if name not in ranking
    }
    if not found:
        return parts, found
    parts.append(reliability(path, runs, labels, caption))
    if every_label:
        rows = [
            ["**mean**" if place == len(labels) else labels[place], name, *_cells(of[place])]
            for place in range(len(labels) + (len(labels) > 1))
            for name, of in found.items()
        ]
        return [*parts, Table(["label", "model", *_HEADER], rows)], found
    rows = [[name, *_cells(of[-1])] for name, of in found.items()]
    title = f"Means over {len(labels)} labels; each in tables/calibration.csv."
    title = title if len(labels) > 1 else ""
    return [*parts, Table(["model", *_HEADER], rows, title)], found


def _cells(row: Calibration) -> list[str]:
    return [
        tables.two_lines(tables.with_interval(row._asdict(), "brier")),
        tables.signed(row.skill),
        *map(tables.number, (row.ece, row.mean_probability, row.observed_rate)),
    ]


def reliability(
    path: Path, runs: Sequence[tuple[str, Predictions]], labels: Sequence[str], caption: str
) -> Picture:
    """Draws observed rate against probability of every label, one panel each.

    Vertical lines are Wilson's intervals of the bins. `runs` are (name, predictions), in the order
    that decides colours; those that only rank are left out.
    """
    probable = {k: one for k, (_, one) in enumerate(runs) if one.probabilities is not None}

    def draw(axes: Axes, label: str) -> None:
        bins = {}
        for index, one in probable.items():
            column = one.label_names.index(label)
            targets, probabilities = one.targets[:, column], one.probabilities[:, column]
            bins[index] = calibration.reliability(targets, probabilities, _NUM_BINS)
        # A rare finding's probabilities would all lie in a corner of the unit square.
        farthest = max(max(held.mean_probability.max(), held.high.max()) for held in bins.values())
        end = min(1.0, math.ceil(20 * farthest) / 20)
        axes.plot([0, end], [0, end], color=GREY, linewidth=1, linestyle=":")
        for index, held in bins.items():
            colour, marker, line = style(index)
            bars = dict(color=colour, alpha=0.3, linewidth=2.5)
            axes.vlines(held.mean_probability, held.low, held.high, **bars)
            drawn = dict(marker=marker, color=colour, linewidth=1.3, markersize=5)
            drawn["label"] = runs[index][0]
            axes.plot(held.mean_probability, held.observed_rate, line, **drawn)
        limits = (-0.02 * end, 1.02 * end)  # whole markers at the edges
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set(xlabel="mean probability of the bin", ylabel="observed rate")
        bare(axes, "both")

    return multiples(path, {k: runs[k][0] for k in probable}, labels, draw, caption)

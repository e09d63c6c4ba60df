"""Calibration of probabilities: Brier score, expected calibration error, reliability table."""

from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Int, Shaped

from cxr_jax.stats.auroc import binary_rows
from cxr_jax.stats.clusters import CHUNK, cluster_counts, cluster_index


class Reliability(NamedTuple):
    """One entry per bin that holds images, by rising probability; limits are of the rate."""

    mean_probability: Float[np.ndarray, " bins"]
    observed_rate: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]
    low: Float[np.ndarray, " bins"]
    high: Float[np.ndarray, " bins"]


def brier(targets: Shaped[np.ndarray, " n"], probabilities: Shaped[np.ndarray, "..."]) -> float:
    """Returns the mean squared difference of probability and outcome (Brier 1950); 0 is best.

    Targets are 0, 1 or NaN (missing: left out), probabilities [n] in [0, 1]. It judges ranking and
    calibration together and depends on prevalence: always saying the prevalence p scores p (1 - p).
    NaN where no target is known. Raises ValueError, naming the row, as `binary_rows` does and for
    a probability outside [0, 1].

    >>> brier(np.array([0, 0, 1, 1]), np.full(4, 0.5))
    0.25
    """
    outcome, probability = _known(targets, probabilities)
    return float(np.mean((probability - outcome) ** 2)) if outcome.size else float("nan")


def brier_skill(
    targets: Shaped[np.ndarray, " n"], probabilities: Shaped[np.ndarray, "..."]
) -> float:
    """Returns 1 - Brier / (p (1 - p)), p the prevalence: 1 is perfect, 0 as always saying p.

    Arguments and errors as in `brier`; NaN where only one class is known.
    """
    outcome, _ = _known(targets, probabilities)
    variance = outcome.var() if outcome.size else 0.0  # p (1 - p)
    return float(1 - brier(targets, probabilities) / variance) if variance else float("nan")


def bootstrap_brier(
    targets: Shaped[np.ndarray, "n k"],
    probabilities: Shaped[np.ndarray, "n k"],
    clusters: Shaped[np.ndarray, " n"],
    num_resamples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "r k"]:
    """Returns the Brier score of each label in every resample of clusters (patients).

    The draws are those of `resampled_auroc` with the same clusters and seed. NaN in a resample
    without a known target, and throughout where there are fewer than two clusters. Errors as in
    `brier`.
    """
    index, count = cluster_index(clusters, len(targets))
    errors, known = np.zeros((2, count, targets.shape[1]))
    for k in range(targets.shape[1]):
        rows = ~np.isnan(targets[:, k].astype(float))
        outcome, probability = _known(targets[:, k], probabilities[:, k])
        errors[:, k] = np.bincount(index[rows], (probability - outcome) ** 2, count)
        known[:, k] = np.bincount(index[rows], minlength=count)
    values = np.full((num_resamples, targets.shape[1]), np.nan)
    if count < 2:
        return values
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, CHUNK):
        counts = cluster_counts(count, min(CHUNK, num_resamples - start), rng).T
        images = counts @ known
        chunk = values[start : start + len(counts)]
        np.divide(counts @ errors, images, out=chunk, where=images > 0)
    return values


def reliability(
    targets: Shaped[np.ndarray, " n"],
    probabilities: Shaped[np.ndarray, "..."],
    num_bins: int = 10,
    level: float = 0.95,
) -> Reliability:
    """Returns mean probability and observed rate in bins of probability, with Wilson's interval.

    Bins hold counts as equal as ties allow: images with the same probability are never parted, so
    the order of rows does not matter, and empty bins are left out. The interval takes images as
    independent: with many images of a patient it is too narrow. Arguments and errors as in `brier`;
    ValueError too for fewer than one bin.

    >>> table = reliability(np.array([0, 1, 1, 1]), np.array([0.2, 0.2, 0.9, 0.9]), num_bins=2)
    >>> table.observed_rate, table.count
    (array([0.5, 1. ]), array([2, 2]))
    """
    outcome, probability = _known(targets, probabilities)
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: at least 1 is needed")
    # Row m k / bins, counted from 1, closes bin k; in whole numbers, so that rounding moves none.
    last = len(probability) * np.arange(1, num_bins) // num_bins - 1
    bins = np.searchsorted(np.sort(probability)[last[last >= 0]], probability)
    _, bins = np.unique(bins, return_inverse=True)
    count = np.bincount(bins)
    positives = np.bincount(bins[outcome == 1], minlength=len(count))
    low, high = wilson_interval(positives, count, level)
    mean = np.bincount(bins, probability) / count
    return Reliability(mean, positives / count, count, low, high)


def expected_calibration_error(
    targets: Shaped[np.ndarray, " n"],
    probabilities: Shaped[np.ndarray, "..."],
    num_bins: int = 10,
) -> float:
    """Returns the images' mean |observed rate - mean probability| of their bin (Naeini 2015).

    Bins, arguments and errors as in `reliability`. Bins of equal width are the usual choice in the
    literature and misjudge rare findings, whose probabilities fall into one bin; hence counts.
    The value is biased upwards: noise within bins adds to it, so compare only models scored on the
    same images with the same bins. NaN where no target is known.
    """
    table = reliability(targets, probabilities, num_bins)
    if not table.count.size:
        return float("nan")
    gaps = np.abs(table.observed_rate - table.mean_probability)
    return float(table.count @ gaps / table.count.sum())


def wilson_interval(
    successes: Int[np.ndarray, " bins"], trials: Int[np.ndarray, " bins"], level: float = 0.95
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Returns Wilson's (1927) score interval of a proportion, which stays in [0, 1] even at 0."""
    z = scipy.stats.norm.ppf((1 + level) / 2)
    centre = (successes + z**2 / 2) / (trials + z**2)
    half = z / (trials + z**2) * np.sqrt(successes * (1 - successes / trials) + z**2 / 4)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def _known(
    targets: np.ndarray, probabilities: np.ndarray
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    targets, probabilities = binary_rows(targets, probabilities)
    known = ~np.isnan(targets)
    bad = np.flatnonzero(known & ~((probabilities >= 0) & (probabilities <= 1)))
    if bad.size:
        raise ValueError(
            f"row {bad[0]}: probability is {probabilities[bad[0]]}; probabilities lie in [0, 1]. "
            "Scores that only rank images cannot be calibrated"
        )
    return targets[known], probabilities[known]

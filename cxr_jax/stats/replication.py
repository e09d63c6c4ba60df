"""The variance between pretrainings of one recipe, which resampled test patients do not hold."""

import math

import numpy as np
from jaxtyping import Float


def between_draws(
    values: Float[np.ndarray, " p"], num_resamples: int, seed: int
) -> Float[np.ndarray, " r"]:
    """Returns draws of how far the mean of p pretrainings lies from that of all there could be.

    p of the values are drawn with replacement. Their mean scatters around that of all p, but by
    (p - 1) / p of the variance: it is stretched to var(values) / p, the variance of a mean. The
    draws depend on p, the number of resamples and the seed alone, so that curves can be taken row
    by row. One value says nothing of others: zeros.

    >>> round(float(np.std(between_draws(np.array([0.7, 0.8]), 100_000, seed=0))), 2)
    0.05
    """
    count = len(values)
    if count == 1:
        return np.zeros(num_resamples)
    drawn = np.random.default_rng(seed).integers(count, size=(count, num_resamples))
    away = (values - values.mean())[drawn].mean(axis=0)
    return away * np.sqrt(count / (count - 1))


def of_mean(values: Float[np.ndarray, " p"]) -> tuple[float, float]:
    """Returns the variance that p pretrainings show of their mean, and its degrees of freedom.

    >>> of_mean(np.array([0.7, 0.8, 0.9]))[1], of_mean(np.array([0.7]))
    (2.0, (0.0, inf))
    """
    if len(values) == 1:
        return 0.0, math.inf
    return float(np.var(values, ddof=1)) / len(values), len(values) - 1.0


def with_pretrainings(
    within: Float[np.ndarray, " r"], freedom: float, *groups: Float[np.ndarray, " _"]
) -> tuple[Float[np.ndarray, " r"], float]:
    """Returns replicates and degrees of freedom that know of other pretrainings there could be.

    Args:
      within: replicates of the mean over the pretrainings of a group, or of the difference of two.
      freedom: their degrees of freedom.
      groups: the score of each pretraining of a group; pretrainings of two are independent.
    """
    draws = [between_draws(values, len(within), seed) for seed, values in enumerate(groups)]
    return within + np.sum(draws, axis=0), freedom_with(within, freedom, *groups)


def freedom_with(
    within: Float[np.ndarray, " r"], freedom: float, *groups: Float[np.ndarray, " _"]
) -> float:
    """Returns the degrees of freedom that `with_pretrainings` gives."""
    usable = within[~np.isnan(within)]
    if usable.size < 2 or all(len(values) == 1 for values in groups):
        return freedom
    parts = [(spread(usable) ** 2, freedom), *map(of_mean, groups)]
    return satterthwaite(*np.transpose(parts))


def spread(values: Float[np.ndarray, " r"]) -> float:
    """Returns the standard deviation; exactly zero for equal values, which rounding would spoil."""
    return float(np.std(values, ddof=1)) if np.ptp(values) else 0.0


def satterthwaite(variances: Float[np.ndarray, " v"], freedoms: Float[np.ndarray, " v"]) -> float:
    """Returns the degrees of freedom of a sum of variances (Satterthwaite 1946).

    Where all are zero, those of the first.

    >>> satterthwaite(np.array([1.0, 1.0]), np.array([10.0, 2.0]))
    6.666666666666667
    """
    if not variances.any():
        return float(freedoms[0])
    return float(variances.sum() ** 2 / (variances**2 / freedoms).sum())

"""The variance between pretrainings of one recipe, which resampled test patients do not hold."""

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


def satterthwaite(variances: Float[np.ndarray, " v"], freedoms: Float[np.ndarray, " v"]) -> float:
    """Returns the degrees of freedom of a sum of variances (Satterthwaite 1946).

    Where all are zero, those of the first.

    >>> satterthwaite(np.array([1.0, 1.0]), np.array([10.0, 2.0]))
    6.666666666666667
    """
    if not variances.any():
        return float(freedoms[0])
    return float(variances.sum() ** 2 / (variances**2 / freedoms).sum())

"""The difference over several datasets: random-effects meta-analysis, made for few of them.

Each dataset has its own true difference. These scatter around a mean with the standard deviation
tau, and the mean, what another dataset like these would show on average, is what is asked for:

    difference_i ~ Normal(mean, standard_error_i² + tau²)

- tau² is the maximum of the restricted likelihood (REML), as Cochrane recommends since 2022 and
  Veroniki et al. 2016 do for continuous outcomes; DerSimonian and Laird's is too small for few
  datasets.
- The interval is Hartung and Knapp's, Student's with k - 1 degrees of freedom: for few datasets it
  errs far less often than the normal one (IntHout et al. 2014).
- Chance agreement of three or four datasets would make it absurdly narrow, so its variance is never
  below 1 / sum of weights (Knapp and Hartung 2003), which Röver et al. 2015 recommend for few
  datasets of unequal precision. It errs to the wide side.
- I² is tau² / (tau² + typical sampling variance), as Higgins and Thompson 2002 define the latter.
- The prediction interval is for the true difference of one more dataset (Higgins et al. 2009).

Where the same few pretrainings stand behind every dataset, what they have in common by chance errs
alike everywhere: the covariances between datasets, over pretrainings, come to the variance of the
mean, with the degrees of freedom of their number (Satterthwaite's for the sum).

The datasets must hold different patients: what they share makes the interval too narrow. The
standard errors are taken as known. Two datasets are not pooled: nothing can be said of tau then
(Gonnermann et al. 2015).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float

from cxr_jax.stats.replication import satterthwaite
from cxr_jax.stats.verdict import detectable_difference, word

MINIMUM = 3  # datasets


class Pooled(NamedTuple):
    """The mean difference over datasets; `verdict` and `detectable` are as in `Comparison`.

    `low` and `high` limit the mean, `new_low` and `new_high` the true difference of a new dataset.
    """

    verdict: str
    difference: float
    low: float
    high: float
    standard_error: float
    p_value: float
    detectable: float
    margin: float
    level: float
    tau2: float
    i2: float
    new_low: float
    new_high: float
    num_datasets: int


def pool(
    differences: Float[np.ndarray, " k"],
    standard_errors: Float[np.ndarray, " k"],
    margin: float = 0.02,
    level: float = 0.95,
    pretrainings: Sequence[Float[np.ndarray, "p k"]] = (),
) -> Pooled:
    """Returns the mean of the datasets' true differences, with its interval and verdict.

    `pretrainings` holds, of every encoder that is several, each one's score on each dataset; the
    standard errors hold their variance on one dataset already. Raises ValueError for fewer than 3
    datasets, and naming the place for a difference that is not finite or a standard error that is
    not above 0.

    >>> found = pool(np.array([0.02, 0.03, 0.04, 0.03]), np.array([0.01, 0.01, 0.02, 0.01]))
    >>> found.verdict, round(found.difference, 3), found.tau2
    ('win', 0.028, 0.0)
    """
    count = len(differences)
    if count < MINIMUM:
        raise ValueError(f"{count} datasets: at least {MINIMUM} can be pooled")
    usable = np.isfinite(differences) & np.isfinite(standard_errors) & (standard_errors > 0)
    for bad in np.flatnonzero(~usable):
        raise ValueError(
            f"dataset {bad} has difference {differences[bad]} with standard error "
            f"{standard_errors[bad]}: leave it out"
        )
    variances = standard_errors**2
    tau2 = restricted_maximum(differences, variances)
    weights = 1 / (variances + tau2)
    mean = float(np.average(differences, weights=weights))
    scatter = weights @ (differences - mean) ** 2 / (count - 1)
    parts = [(max(scatter, 1.0) / weights.sum(), count - 1)]
    shares = weights / weights.sum()
    parts += [(_covariance(values, shares), len(values) - 1) for values in pretrainings]
    error = float(np.sqrt(sum(variance for variance, _ in parts)))
    freedom = satterthwaite(*np.transpose(parts))
    student = scipy.stats.t(freedom)
    half = float(student.ppf((1 + level) / 2))
    low, high = mean - half * error, mean + half * error
    p_value = float(2 * student.sf(abs(mean) / error))
    away = half * float(np.sqrt(tau2 + error**2))
    exact = 1 / variances
    typical = (count - 1) * exact.sum() / (exact.sum() ** 2 - (exact**2).sum())
    return Pooled(
        verdict=word(mean, low, high, p_value, margin, level),
        difference=mean,
        low=low,
        high=high,
        standard_error=error,
        p_value=p_value,
        detectable=detectable_difference(error, freedom),
        margin=margin,
        level=level,
        tau2=tau2,
        i2=float(tau2 / (tau2 + typical)),
        new_low=mean - away,
        new_high=mean + away,
        num_datasets=count,
    )


def _covariance(values: Float[np.ndarray, "p k"], shares: Float[np.ndarray, " k"]) -> float:
    """Returns what the mean's variance has from covariances between datasets, 0 where negative."""
    whole = np.var(values @ shares, ddof=1)
    alone = shares**2 @ np.var(values, axis=0, ddof=1)
    return max(float(whole - alone), 0.0) / len(values)


def restricted_maximum(
    differences: Float[np.ndarray, " k"], variances: Float[np.ndarray, " k"]
) -> float:
    """Returns the tau² at which the restricted likelihood is largest; 0 where it only falls."""

    def cost(tau2: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Minus twice the logarithm of the likelihood, less a constant."""
        total = variances + np.reshape(tau2, (-1, 1))
        means = (differences / total).sum(axis=1) / (1 / total).sum(axis=1)
        squares = ((differences - means[:, None]) ** 2 / total).sum(axis=1)
        return np.log(total).sum(axis=1) + np.log((1 / total).sum(axis=1)) + squares

    # Above twice the sum of squares it can only fall. The likelihood may have two maxima: first a
    # grid, then the finer search between the neighbours of its best point.
    most = 2 * np.sum((differences - differences.mean()) ** 2) + variances.min()
    grid = np.append(0, np.geomspace(1e-4 * min(variances.min(), most), most, 200))
    best = int(np.argmin(cost(grid)))
    if best == 0:
        return 0.0
    ends = grid[best - 1], grid[min(best + 1, 200)]
    options = dict(xatol=1e-10 * most)
    found = scipy.optimize.minimize_scalar(
        lambda tau2: float(cost(np.array([tau2]))[0]),
        bounds=ends,
        method="bounded",
        options=options,
    )
    return float(found.x)

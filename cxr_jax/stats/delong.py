"""DeLong's standard errors of AUROC and the test of two models on the same images."""

from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Shaped

from cxr_jax.stats.auroc import auroc, binary_rows


class DeLongInterval(NamedTuple):
    """An AUROC with DeLong's standard error; NaN where it cannot be estimated."""

    auroc: float
    standard_error: float
    low: float
    high: float


class DeLongTest(NamedTuple):
    """AUROC of a against b: the difference a - b, its interval, and the two-sided test of zero."""

    auroc_a: float
    auroc_b: float
    difference: float
    standard_error: float
    z: float
    p_value: float
    low: float
    high: float


def placements(
    positives: Float[np.ndarray, " m"], negatives: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]:
    """Counts the negatives below each positive and the positives above each negative.

    A tie counts half. These are the structural components of DeLong et al. (1988, equation 4), not
    yet divided by the size of the other class so that they stay exact halves of whole numbers. A
    row's rank among all rows less its rank in its own class is the number of rows of the other
    class below it, which takes one sort, O((m + n) log (m + n)) (Sun and Xu 2014).
    """
    ranks = scipy.stats.rankdata(np.concatenate([positives, negatives]))
    below = ranks[: len(positives)] - scipy.stats.rankdata(positives)
    above = len(positives) - (ranks[len(positives) :] - scipy.stats.rankdata(negatives))
    return below, above


def delong_variance(
    targets: Shaped[np.ndarray, " n"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None = None,
) -> float:
    """Returns the variance of the AUROC (DeLong et al. 1988).

    Targets are 0, 1 or NaN (missing: the row is left out), scores any number that can be ranked.
    Images of one patient are not independent: `clusters`, each row's patient, gives the variance of
    Obuchowski (1997), which is DeLong's where every row is its own cluster. NaN with fewer than two
    clusters that hold a positive, or a negative. Raises ValueError as `binary_rows` does and for
    clusters of another length.
    """
    (targets, scores), clusters = _known((scores,), targets, clusters)
    positive = targets == 1
    return _variance(*placements(scores[positive], scores[~positive]), clusters, positive)


def delong_interval(
    targets: Shaped[np.ndarray, " n"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None = None,
    level: float = 0.95,
) -> DeLongInterval:
    """Returns the normal interval of one AUROC, cut at 0 and 1; arguments as in `delong_variance`.

    Near 0 and 1 and with few rows of a class it is too narrow: prefer `bootstrap_auroc` there. With
    a variance of zero (perfect separation) there are no limits: NaN.

    >>> found = delong_interval(np.array([0, 0, 1, 1]), np.array([1, 3, 2, 4]))
    >>> found.auroc, round(found.standard_error, 3), round(found.low, 3), found.high
    (0.75, 0.354, 0.057, 1.0)
    """
    error = np.sqrt(delong_variance(targets, scores, clusters))
    estimate = auroc(targets, scores)
    half = _half_width(error, level)
    low, high = np.clip([estimate - half, estimate + half], 0, 1)
    return DeLongInterval(estimate, float(error), float(low), float(high))


def delong_test(
    targets: Shaped[np.ndarray, " n"],
    scores_a: Shaped[np.ndarray, "..."],
    scores_b: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None = None,
    level: float = 0.95,
) -> DeLongTest:
    """Tests whether two models' AUROCs on the same images differ: two-sided, for one label.

    Arguments and errors as in `delong_variance`; both models are scored on the rows whose target is
    known. Scores that place every image alike have difference 0, standard error 0, z 0 and p 1. A
    standard error of 0 with another difference (one model always right, the other always wrong) is
    an artefact of separation, not certainty: z, p and limits are NaN, as they are where the
    variance cannot be estimated.
    """
    (known, a, b), clusters = _known((scores_a, scores_b), targets, clusters)
    positive = known == 1
    of_a, of_b = (placements(scores[positive], scores[~positive]) for scores in (a, b))
    below, above = of_a[0] - of_b[0], of_a[1] - of_b[1]
    auroc_a, auroc_b = auroc(known, a), auroc(known, b)
    difference = auroc_a - auroc_b
    if below.size and above.size and not (below.any() or above.any()):
        return DeLongTest(auroc_a, auroc_b, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    error = np.sqrt(_variance(below, above, clusters, positive))
    z = difference / error if error > 0 else np.nan
    half = _half_width(error, level)
    return DeLongTest(
        auroc_a,
        auroc_b,
        difference,
        float(error),
        float(z),
        float(2 * scipy.stats.norm.sf(abs(z))),
        float(difference - half),
        float(difference + half),
    )


def _half_width(error: float, level: float) -> float:
    return scipy.stats.norm.ppf((1 + level) / 2) * error if error > 0 else np.nan


def _known(
    models: tuple[np.ndarray, ...], targets: np.ndarray, clusters: np.ndarray | None
) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """Returns targets and scores of the rows whose target is known, and these rows' clusters.

    The clusters are None where each of these rows has its own.
    """
    checked = [binary_rows(targets, scores) for scores in models]
    known = ~np.isnan(checked[0][0])
    rows = (checked[0][0][known], *(scores[known] for _, scores in checked))
    if clusters is None:
        return rows, None
    if len(clusters) != len(targets):
        raise ValueError(f"clusters have {len(clusters)} rows and targets {len(targets)}")
    names, index = np.unique(clusters[known], return_inverse=True)
    return rows, None if len(names) == len(index) else index


def _variance(
    below: Float[np.ndarray, " m"],
    above: Float[np.ndarray, " n"],
    clusters: np.ndarray | None,
    positive: np.ndarray,
) -> float:
    """Returns the variance of an AUROC, or of a difference given that of the components.

    With clusters (Obuchowski 1997) the components, less their mean, are summed in each cluster
    first, and clusters that hold both classes add a covariance.
    """
    m, n = len(below), len(above)
    if m < 2 or n < 2:
        return float("nan")
    if clusters is None:
        return _spread(below) / (n**2 * m) + _spread(above) / (m**2 * n)
    num = int(clusters.max()) + 1
    sums, held = [], []
    for values, rows in ((below, positive), (above, ~positive)):
        centred = values - values.mean() if np.ptp(values) else np.zeros(len(values))
        # Divided by the other class's size these are placements in [0, 1], by the own size means.
        sums.append(np.bincount(clusters[rows], centred, num) / (m * n))
        held.append(len(np.unique(clusters[rows])))
    if min(held) < 2:
        return float("nan")
    own = sum(h / (h - 1) * (s @ s) for s, h in zip(sums, held, strict=True))
    shared = 2 * num / (num - 1) * (sums[0] @ sums[1])
    # No cluster count is larger than `num`, so the sum is at least 0 but for rounding.
    return float(max(own + shared, 0.0))


def _spread(values: Float[np.ndarray, " m"]) -> float:
    """Returns the sample variance; exactly zero for equal values, which rounding would spoil."""
    return float(np.var(values, ddof=1)) if np.ptp(values) else 0.0

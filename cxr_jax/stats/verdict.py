"""Verdicts on model A against model B on one test set: win, loss, tie or inconclusive.

The quantity is the difference of AUROC, A less B, on the same images; for several labels that of
the macro means over the labels that can be estimated (`bootstrap_auroc`). Its replicates come from
resampling patients, with A and B scored in the same resamples. Their spread is the standard error;
interval and p-value are Student's, which agree with each other.

- "win" ("loss"): the p-value is at most 1 - level, the difference above (below) zero, and the
  interval reaches beyond the margin, the largest difference that does not matter.
- "negligible": as significant, but the interval lies within ± margin: there is a difference, and it
  is too small to matter.
- "tie": the interval lies within ± margin and holds zero, or the p-value is not significant. The
  models are as good as equal. This is equivalence, shown by the data.
- "inconclusive": neither of these. A difference that matters may exist or not; this test set, or
  this pair of models on it, could not show it. (Older files say
  "underpowered".)
- "not estimable": too few patients of a class (`MINIMUM`), or no resample has both.

`detectable`, the minimum detectable difference, would have been found with power .8 in a two-sided
test at .05: (1.96 + .84) standard errors where there are many patients. r resamples claim no
p-value below 2 / (r + 1) (Davison and Hinkley 1997, section 4.2).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Shaped

from cxr_jax.stats.bootstrap import AUROC, Measure, degrees, of_pretrainings, used_excluded
from cxr_jax.stats.replication import spread, with_pretrainings

_POWER = 0.8
_TWO_SIDED_ALPHA = 0.05


class Comparison(NamedTuple):
    """A against B on one test set; the module's docstring says what the fields mean.

    `p_adjusted`, on which the verdict rests, is `p_value` until `correct_verdicts` has seen all
    datasets of a study. `low`, `high` are of this dataset alone, at `level`. NaN where a number
    cannot be estimated. `num_resamples` were used and `num_excluded` left out because a label's
    class was absent. For targets [n k] `labels` holds one comparison per label, in order.
    """

    verdict: str
    auroc_a: float
    auroc_b: float
    difference: float
    low: float
    high: float
    standard_error: float
    p_value: float
    p_adjusted: float
    detectable: float
    margin: float
    level: float
    num_resamples: int
    num_excluded: int
    labels: tuple["Comparison", ...] = ()


def compare_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores_a: Shaped[np.ndarray, "..."] | Sequence[Shaped[np.ndarray, "..."]],
    scores_b: Shaped[np.ndarray, "..."] | Sequence[Shaped[np.ndarray, "..."]],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
    margin: float = 0.02,
    level: float = 0.95,
    folds: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    measure: Measure = AUROC,
) -> Comparison:
    """Returns the verdict on A against B from their scores for the same images.

    By AUROC or another `measure`, whose values are then those called "auroc". A list of scores is
    of several pretrainings of one recipe: their means are compared, and the variance between them
    is part of the interval (`with_pretrainings`).

    Targets are 0, 1 or NaN (missing), [n] or [n k]; `clusters` holds each row's patient, None takes
    every row as its own; `folds` are A's and B's, of cross-validations. The verdicts of the labels
    are not corrected for there being several. Raises ValueError as `bootstrap_auroc` and `judge`
    do.

    >>> targets, a = np.tile([0, 1], 20), np.arange(40) / 40 + np.tile([0, 1], 20)
    >>> found = compare_auroc(targets, a, -a, clusters=None)
    >>> found.verdict, found.difference
    ('win', 1.0)
    """
    fewest, why = measure.counted(targets, clusters)
    estimable = ~np.array(why, bool)
    (alone_a, of_a), (alone_b, of_b) = (
        of_pretrainings(measure, targets, one, clusters, num_resamples, seed, fold, estimable)
        for one, fold in zip((scores_a, scores_b), folds)
    )

    def judged(columns, labels=()):
        # Resample by resample the means are over the same labels: a NaN in one excludes it.
        a, b = (alone[:, columns].mean(axis=1) for alone in (alone_a, alone_b))
        apart = of_a[:, columns].mean(axis=1) - of_b[:, columns].mean(axis=1)
        apart, freedom = with_pretrainings(apart, degrees(fewest[columns]), a, b)
        return judge(a.mean(), b.mean(), apart, margin, level, labels, freedom)

    labels = tuple(judged([k]) for k in range(len(why)))
    if targets.ndim == 1:
        return labels[0]
    return judged(estimable if estimable.any() else [0], labels)


def judge(
    auroc_a: float | np.floating,
    auroc_b: float | np.floating,
    replicates: Float[np.ndarray, " r"],
    margin: float = 0.02,
    level: float = 0.95,
    labels: tuple[Comparison, ...] = (),
    freedom: float = math.inf,
) -> Comparison:
    """Returns the verdict from two AUROCs and the bootstrap replicates of their difference, A - B.

    `freedom` are the degrees of freedom of the difference (`degrees`). Replicates that are NaN are
    left out and counted. Replicates that are all equal say nothing
    about uncertainty: `detectable` is then NaN, and two models that both separate the classes
    perfectly are inconclusive, not tied. Raises ValueError for a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}: give the largest difference that does not matter")
    usable = replicates[~np.isnan(replicates)]
    difference = float(auroc_a) - float(auroc_b)
    low = high = error = p_value = detectable = float("nan")
    if usable.size > 1:
        error, student = spread(usable), scipy.stats.t(freedom)
        half = float(student.ppf((1 + level) / 2) * error)
        low, high = difference - half, difference + half
        p_value = float(2 * student.sf(abs(difference) / error)) if error else float(not difference)
        p_value = max(p_value, 2 / (usable.size + 1))
    if error > 0:
        detectable = detectable_difference(error, freedom)
    numbers = (difference, low, high, error, p_value, p_value, detectable, margin, level)
    counts = used_excluded(replicates)
    comparison = Comparison("", float(auroc_a), float(auroc_b), *numbers, *counts, labels)
    return comparison._replace(verdict=_verdict(comparison))


def correct_verdicts(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Returns the comparisons with `p_adjusted` by Holm over all of them, and verdicts by it.

    For one question asked of several datasets: a win or loss must survive the correction, else it
    becomes what its interval says, a tie or inconclusive. Datasets that are not estimable are not
    counted. Comparisons of single labels stay as they are. Raises ValueError where so few resamples
    were drawn that no p-value could have passed: the verdicts would speak of the software.
    """
    p_values = np.array([comparison.p_value for comparison in comparisons], float)
    counted = int((~np.isnan(p_values)).sum())
    for place, comparison in enumerate(comparisons):
        drawn = comparison.num_resamples + comparison.num_excluded
        needed = math.ceil(2 * counted / (1 - comparison.level) - 1e-9) - 1
        if counted and drawn < needed:
            raise ValueError(
                f"comparison {place} has {drawn} resamples: over {counted} datasets no difference "
                f"could be significant after Holm's correction with fewer than {needed}"
            )
    corrected = []
    for comparison, p_adjusted in zip(comparisons, holm(p_values), strict=True):
        changed = comparison._replace(p_adjusted=float(p_adjusted))
        corrected.append(changed._replace(verdict=_verdict(changed)))
    return tuple(corrected)


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Returns adjusted p-values, in the order given: at most alpha where Holm rejects at alpha.

    The k-th smallest of m p-values is multiplied by m - k + 1, and no adjusted value may be below
    that of a smaller p-value (Holm 1979). The chance of one false rejection or more stays below
    alpha whatever the dependence between the tests. A NaN is a test that was not done: it stays NaN
    and is not counted among the m. Raises ValueError, naming the place, for a value outside [0, 1].

    >>> holm(np.array([0.04, 0.01, np.nan, 0.3]))
    array([0.08, 0.03,  nan, 0.3 ])
    """
    bad = np.flatnonzero((p_values < 0) | (p_values > 1))
    if bad.size:
        raise ValueError(f"p-value {bad[0]} is {p_values[bad[0]]}: p-values lie in [0, 1]")
    done = np.flatnonzero(~np.isnan(p_values))
    order = done[np.argsort(p_values[done], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def detectable_difference(standard_error: float, freedom: float) -> float:
    """Returns the minimum detectable difference; the module's docstring says of what."""
    powers = [1 - _TWO_SIDED_ALPHA / 2, _POWER]
    return float(scipy.stats.t.ppf(powers, freedom).sum() * standard_error)


def word(
    difference: float, low: float, high: float, p_value: float, margin: float, level: float
) -> str:
    """Returns the verdict on a difference that can be estimated, by the module's rule.

    >>> word(difference=0.03, low=0.01, high=0.05, p_value=0.003, margin=0.02, level=0.95)
    'win'
    """
    within = -margin <= low and high <= margin
    if p_value <= 1 - level + 1e-12:
        return "negligible" if within else "win" if difference > 0 else "loss"
    return "tie" if within else "inconclusive"


def _verdict(comparison: Comparison) -> str:
    low, high = comparison.low, comparison.high
    if math.isnan(low) or math.isnan(comparison.difference):
        return "not estimable"
    if comparison.auroc_a == comparison.auroc_b == 1 and low == high:
        return "inconclusive"
    p_value, margin, level = comparison.p_adjusted, comparison.margin, comparison.level
    return word(comparison.difference, low, high, p_value, margin, level)

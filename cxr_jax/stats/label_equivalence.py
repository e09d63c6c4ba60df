"""Label equivalence: from AUROC at several numbers of labels to a ratio of them."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float, Shaped

# What a number says of the truth where it was measured, or lies above or below the labels tried.
_BOUNDS = {0: "", 1: "at least", -1: "at most"}


class LabelEquivalence(NamedTuple):
    """A does with `labels_a` labels what B does with `labels_b`: `ratio` times as many.

    `low` and `high` limit the ratio. Each number's bound is "" where it was measured, "at least"
    where B stays below A's AUROC with all labels that were tried (the number is then the largest
    that could be seen), and "at most" where B is above it already with the fewest. The limits are
    NaN where no replicate could be used.
    """

    labels_a: float
    labels_b: float
    ratio: float
    bound: str
    low: float
    low_bound: str
    high: float
    high_bound: str
    num_resamples: int
    num_excluded: int


def label_equivalence(
    labels: Shaped[np.ndarray, " f"],
    auroc_a: Float[np.ndarray, "..."],
    auroc_b: Float[np.ndarray, "..."],
    replicates_a: Float[np.ndarray, "..."],
    replicates_b: Float[np.ndarray, "..."],
    at: float | int,
    level: float = 0.95,
) -> LabelEquivalence:
    """Finds the number of labels with which B reaches the AUROC that A has with `at` labels.

    `labels` [f] are the numbers of labels at which both were trained, rising, all above 0; AUROCs
    [f] are means over seeds where there are several. Each curve is made monotone (isotonic
    regression, equal weights: more labels do not harm, what falls is noise) and read as straight
    lines over log(labels). Where B's curve is flat at A's AUROC every number of labels in the flat
    stretch would do, and the one nearest to `at`, the smallest claim, is taken.

    The interval is the percentile interval of the ratio over replicates, row r of both [r f] from
    the same resample of test patients (`resampled_auroc` with one seed). Its limits are replicates,
    not values between two, so that each is either measured or a bound. It holds the uncertainty of
    the test set; that of training only if the replicates draw seeds too. Replicates with a NaN are
    left out and counted.

    Raises ValueError for labels that do not rise or are not above 0, fewer than two of them, `at`
    outside their range, arrays of other lengths and a NaN in an AUROC, naming the place.

    >>> none = np.zeros((0, 3))
    >>> curves = np.array([0.7, 0.8, 0.9]), np.array([0.6, 0.7, 0.8])
    >>> round(label_equivalence(np.array([10, 100, 1000]), *curves, none, none, at=100).labels_b)
    1000
    """
    labels = np.asarray(labels, np.float64)
    _check(labels, auroc_a, auroc_b, replicates_a, replicates_b, at)
    # One call, so that `at` and an equal number of labels have the same logarithm to the last bit.
    logs = np.log(np.append(labels, at))
    place, here = logs[:-1], logs[-1]
    equal, side = _equal_place(place, auroc_a, auroc_b, here)
    usable = ~(np.isnan(replicates_a).any(axis=1) | np.isnan(replicates_b).any(axis=1))
    found = sorted(
        _equal_place(place, a, b, here)
        for a, b in zip(replicates_a[usable], replicates_b[usable], strict=True)
    )
    limits = [(np.nan, 0), (np.nan, 0)]
    if found:
        # Outwards to the next replicate: the interval is never narrower than its level.
        steps = len(found) - 1
        limits = [
            found[int(np.floor(steps * (1 - level) / 2))],
            found[int(np.ceil(steps * (1 + level) / 2))],
        ]
    (low, low_side), (high, high_side) = limits
    return LabelEquivalence(
        labels_a=float(at),
        labels_b=float(np.exp(equal)),
        ratio=float(np.exp(equal) / at),
        bound=_BOUNDS[side],
        low=float(np.exp(low) / at),
        low_bound=_BOUNDS[low_side],
        high=float(np.exp(high) / at),
        high_bound=_BOUNDS[high_side],
        num_resamples=len(found),
        num_excluded=len(replicates_a) - len(found),
    )


def _equal_place(
    place: Float[np.ndarray, " f"],
    auroc_a: Float[np.ndarray, " f"],
    auroc_b: Float[np.ndarray, " f"],
    at: float | np.floating,
) -> tuple[float, int]:
    """Returns the log number of labels where B equals A at `at`; -1, 0, 1: below, in, above."""
    curve_a = scipy.optimize.isotonic_regression(auroc_a).x
    curve_b = scipy.optimize.isotonic_regression(auroc_b).x
    target = np.interp(at, place, curve_a)
    if target > curve_b[-1]:
        return float(place[-1]), 1
    if target < curve_b[0]:
        return float(place[0]), -1
    # The stretch of B's curve that lies at the target: a point, or several places where it is flat.
    first = int(np.searchsorted(curve_b, target, side="left"))
    last = int(np.searchsorted(curve_b, target, side="right")) - 1
    if first <= last:
        return float(np.clip(at, place[first], place[last])), 0
    share = (target - curve_b[last]) / (curve_b[first] - curve_b[last])
    return float(place[last] + share * (place[first] - place[last])), 0


def _check(
    labels: Float[np.ndarray, " f"],
    auroc_a: np.ndarray,
    auroc_b: np.ndarray,
    replicates_a: np.ndarray,
    replicates_b: np.ndarray,
    at: float | int,
) -> None:
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} numbers of labels: a curve needs at least 2")
    bad = np.flatnonzero(~(np.diff(labels, prepend=0) > 0))
    if bad.size:
        raise ValueError(
            f"number of labels {bad[0]} is {labels[bad[0]]:g}: they must rise and be above 0"
        )
    if not labels[0] <= at <= labels[-1]:
        raise ValueError(f"at is {at:g}: curves were measured from {labels[0]:g} to {labels[-1]:g}")
    for what, values in (("auroc_a", auroc_a), ("auroc_b", auroc_b)):
        if values.shape != labels.shape:
            raise ValueError(f"{what} has {len(values)} values and labels {len(labels)}")
        if np.isnan(values).any():
            place = labels[np.isnan(values)][0]
            raise ValueError(f"{what} is NaN at {place:g} labels: leave that number out")
    for what, rows in (("replicates_a", replicates_a), ("replicates_b", replicates_b)):
        if rows.shape != (len(replicates_a), len(labels)):
            raise ValueError(
                f"{what} have shape {rows.shape}: give one row per resample, the same for both, "
                f"and a column for each of {len(labels)} numbers of labels"
            )

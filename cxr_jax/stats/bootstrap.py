"""Patient-clustered bootstrap of AUROC: intervals, and replicates for paired differences.

Patients, not images, are drawn with replacement, because images of one patient are not independent
(Field and Welsh 2007). A resample is then a whole-number weight for each patient, and the weighted
AUROCs of all resamples follow from one sort of the scores.

Resampling gives the standard error; the limits are Student's, of an AUROC on the logit scale, with
one degree of freedom less than the rarer class has patients. docs/statistics.md has the simulated
coverage that chose them, and with it `MINIMUM`.

With `fold`, of a cross-validation, AUROCs are of pairs within folds (`auroc`), and replicates are
stretched by what folds have in common (`fold_variance`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.special
import scipy.stats
from jaxtyping import Float, Int, Shaped

from cxr_jax.stats.auroc import auroc, binary_rows, rank_runs
from cxr_jax.stats.replication import satterthwaite

# Patients with a positive image, and patients with a negative one, below which an AUROC is not
# estimable: with fewer no interval held the true AUROC as often as it says, however wide.
MINIMUM = 5

# Resamples go through in chunks whose run sums stay in the processor's cache: for 14 labels of
# 25,596 images 16 at a time take half the time of 128. Very many rows make the chunks smaller, so
# that weights and run sums hold about this many float64 (32 MiB) each.
_CHUNK_RESAMPLES = 16
_CHUNK_ELEMENTS = 2**22


class Measure(NamedTuple):
    """What is measured of images, given targets [n k] and scores [n k], and how it is resampled.

    alone: (targets, scores, fold) -> its value for each label, NaN where there is none. resampled:
    as `resampled_auroc`. counted: (targets, clusters) -> as `rarer_class`. AUROC and MEAN are the
    two that there are.
    """

    alone: Callable[..., Float[np.ndarray, " k"]]
    resampled: Callable[..., Float[np.ndarray, "r k"]]
    counted: Callable[..., tuple[Int[np.ndarray, " k"], list[str]]]


class Interval(NamedTuple):
    """An AUROC (or another measure) and its interval; NaN where one of them cannot be estimated.

    `num_resamples` were used and `num_excluded` left out because a class was absent in them. For
    several labels the interval is that of the macro mean over the labels that can be estimated, and
    `labels` holds one interval per label, in order; for one label `labels` is empty. `shortage`
    says why a label, or every label, is not estimable, and is "" where the AUROC is.
    """

    estimate: float
    low: float
    high: float
    num_resamples: int
    num_excluded: int
    labels: tuple["Interval", ...] = ()
    shortage: str = ""

    @property
    def note(self) -> str:
        """What a reader must know of the limits, "" where there is nothing."""
        if self.shortage:
            return f"not estimable: {self.shortage}"
        notes = []
        if not self.num_resamples:
            notes.append("no interval: no resample of patients holds both classes")
        elif self.num_excluded:
            total = self.num_resamples + self.num_excluded
            notes.append(
                f"interval from {self.num_resamples} of {total} resamples; in the others a class "
                "is absent"
            )
        if self.num_resamples and self.estimate == 1:
            notes.append(
                "perfect separation: every image with the finding scored above every one without; "
                "the lower limit says what that few patients can show"
            )
        return "; ".join(notes)


def bootstrap_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    fold: Int[np.ndarray, " n"] | None = None,
    measure: Measure | None = None,
) -> Interval:
    """Returns the AUROC and its interval, drawing clusters (patients) with replacement.

    Or that of another `measure`.

    Targets are 0, 1 or NaN (missing), [n] for one label or [n k] for k labels, whose intervals and
    macro come from the same resamples. `clusters` holds each row's patient, as strings or numbers;
    None takes every row as its own. A label with fewer than MINIMUM patients of a class is not
    estimable: NaN, and out of the macro (`auroc` gives its value all the same). A resample in
    which a label has one class only is excluded for that label and for the macro, so that the macro
    is always a mean over the same labels. Raises ValueError for shapes that differ and unusable
    targets or scores (naming the row).

    >>> targets, scores = np.tile([0, 1], 20), np.arange(40) % 7 + np.tile([0, 1], 20)
    >>> interval = bootstrap_auroc(targets, scores, clusters=np.arange(40) // 2)
    >>> round(interval.estimate, 3), interval.low < interval.estimate < interval.high
    (0.629, True)
    >>> bootstrap_auroc(targets[:8], scores[:8], clusters=None).note
    'not estimable: positives of 4 and negatives of 4 patients in the test set (5 are needed)'
    """
    measure = measure or AUROC
    estimates = measure.alone(targets, scores, fold)
    fewest, why = measure.counted(targets, clusters)
    values = measure.resampled(targets, scores, clusters, num_resamples, seed, fold)
    estimable = ~np.array(why, bool)
    values[:, ~estimable] = np.nan
    estimates[~estimable] = np.nan

    def interval(estimate, values, fewest, labels=(), shortage=""):
        limits = auroc_limits(float(estimate), values, degrees(fewest), level)
        return Interval(float(estimate), *limits, *used_excluded(values), labels, shortage)

    labels = tuple(
        interval(estimates[k], values[:, k], fewest[[k]], (), reason)
        for k, reason in enumerate(why)
    )
    if targets.ndim == 1:
        return labels[0]
    if not estimable.any():
        return interval(np.nan, values[:, 0], fewest, labels, "no label can be estimated")
    # A NaN in any label makes the resample's mean NaN: excluded for the macro too.
    means = values[:, estimable].mean(axis=1)
    return interval(estimates[estimable].mean(), means, fewest[estimable], labels)


def rarer_class(
    targets: Shaped[np.ndarray, "n *k"], clusters: Shaped[np.ndarray, " rows"] | None
) -> tuple[Int[np.ndarray, " k"], list[str]]:
    """Returns of each label the patients of the class that fewer have, and why it is too few or "".

    >>> rarer_class(np.array([0, 0, 1, 1, 1]), np.array(["p1", "p2", "p3", "p3", "p4"]))[1]
    ['positives of 2 and negatives of 2 patients in the test set (5 are needed)']
    """
    index = cluster_index(clusters, len(targets))[0]
    fewest, why = [], []
    for column in targets.reshape(len(targets), -1).T:
        classes = {"positives": column == 1, "negatives": column == 0}
        held = {name: len(np.unique(index[rows])) for name, rows in classes.items()}
        fewest.append(min(held.values()))
        absent = [name for name, count in held.items() if not count]
        few = [f"{name} of {count}" for name, count in held.items() if count < MINIMUM]
        reason = f"no {' and no '.join(absent)} in the test set" if absent else ""
        if few and not absent:
            reason = f"{' and '.join(few)} patients in the test set ({MINIMUM} are needed)"
        why.append(reason)
    return np.array(fewest), why


def degrees(fewest: Int[np.ndarray, " k"]) -> float:
    """Returns the degrees of freedom of a mean over labels, given their `rarer_class` counts.

    A label has one less than its rarer class has patients, and a variance like 1 / count; the mean
    has what Satterthwaite (1946) makes of these.

    >>> degrees(np.array([6])), degrees(np.array([20, 20]))
    (5.0, 38.0)
    """
    variance = 1 / np.maximum(fewest, 2)
    return satterthwaite(variance, 1 / variance - 1)


def auroc_limits(
    estimate: float | np.floating,
    values: Float[np.ndarray, " r"],
    freedom: float,
    level: float = 0.95,
) -> tuple[float, float]:
    """Returns Student's limits of an AUROC on the logit scale, from its resampled values.

    Where all pairs are ordered rightly (or wrongly) no resample differs, and the limit on the other
    side is Wilson's for as many patients as there are degrees of freedom, all of them right. NaN
    with fewer than two usable values.
    """
    usable = values[~np.isnan(values)]
    if usable.size < 2 or np.isnan(estimate):
        return float("nan"), float("nan")
    if estimate in (0, 1):
        z = scipy.stats.norm.ppf((1 + level) / 2)
        away = float(z**2 / (freedom + 1 + z**2))
        return (1 - away, 1.0) if estimate else (0.0, away)
    half = scipy.stats.t.ppf((1 + level) / 2, freedom) * spread(usable)
    half /= estimate * (1 - estimate)  # the derivative of the logit
    low, high = scipy.special.expit(scipy.special.logit(estimate) + np.array([-half, half]))
    return float(low), float(high)


def spread(values: Float[np.ndarray, " r"]) -> float:
    """Returns the standard deviation; exactly zero for equal values, which rounding would spoil."""
    return float(np.std(values, ddof=1)) if np.ptp(values) else 0.0


def used_excluded(values: Float[np.ndarray, " r"]) -> tuple[int, int]:
    """Returns how many resamples can be used, and how many not."""
    excluded = int(np.isnan(values).sum())
    return values.size - excluded, excluded


def resampled_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
    fold: Int[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "r k"]:
    """Returns the AUROC of each label in every resample; NaN where a class is absent.

    The draws depend on the clusters, the number of resamples and the seed alone. So two calls for
    the same test images are paired: row r of both is of the same drawn patients for any model, and
    differences, means over labels and whole curves can be taken row by row. Fewer than two
    clusters leave nothing to resample: all NaN. Shapes and errors as in `bootstrap_auroc`.
    """
    columns, scores = _columns(targets, scores)
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}: at least 1 is needed")
    index, num_clusters = cluster_index(clusters, len(targets))
    values = np.full((num_resamples, columns.shape[1]), np.nan)
    ranked = {}
    for k in range(columns.shape[1]):
        checked, _ = binary_rows(columns[:, k], scores[:, k])
        if (checked == 0).any() and (checked == 1).any():
            ranked[k] = rank_label(columns[:, k], scores[:, k], index, num_clusters, fold)
    if num_clusters < 2:
        return values
    rng = np.random.default_rng(seed)
    most = max(1, min(_CHUNK_RESAMPLES, _CHUNK_ELEMENTS // max(num_clusters, len(targets))))
    for start in range(0, num_resamples, most):
        chunk = values[start : start + most]
        counts = cluster_counts(num_clusters, len(chunk), rng)
        for k, label in ranked.items():
            chunk[:, k] = weighted_auroc(label, counts)
    if fold is not None:
        usable = ~np.isnan(values)
        means = values.sum(axis=0, where=usable) / np.maximum(usable.sum(axis=0), 1)
        values = means + np.sqrt(fold_variance(len(np.unique(fold)))) * (values - means)
    return values


def fold_variance(folds: int) -> float:
    """Returns how many times the variance is that resampled patients show of a cross-validation.

    Of two folds i and j, i is scored by a model of j and j by one of i, so that a chance likeness
    of both counts twice. Where nothing but chance is learnt, and each model leaves two folds out,
    the mean over folds has 1 + (folds - 3) / (folds - 2) times the variance that it has given its
    models. Where something is, models of other patients vary it: never by more than 5 / 3 in
    simulations (docs/statistics.md).

    >>> [round(fold_variance(folds), 2) for folds in (3, 5, 10)]
    [1.67, 1.67, 1.88]
    """
    return 1 + max(2 / 3, (folds - 3) / (folds - 2)) if folds > 2 else 5 / 3


def resampled_mean(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
    fold: Int[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "r k"]:
    """Returns `label_mean` in every resample, of the same draws of clusters as `resampled_auroc`.

    NaN in a resample without an image that counts.
    """
    columns, scores = _columns(targets, scores)
    index, num_clusters = cluster_index(clusters, len(columns))
    values = np.full((num_resamples, columns.shape[1]), np.nan)
    if num_clusters < 2:
        return values
    counting = columns == 1
    sums, counts = np.zeros((2, num_clusters, columns.shape[1]))
    np.add.at(sums, index, np.where(counting, scores, 0))
    np.add.at(counts, index, counting)
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _CHUNK_RESAMPLES):
        chunk = values[start : start + _CHUNK_RESAMPLES]
        drawn = cluster_counts(num_clusters, len(chunk), rng).T
        total = drawn @ counts
        np.divide(drawn @ sums, total, out=chunk, where=total > 0)
    return values


def label_mean(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    fold: Int[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " k"]:
    """Returns each label's mean score over the images that count, whose target is 1.

    >>> label_mean(np.array([1, 1, np.nan, 0]), np.array([0.5, 1.0, 0.0, 0.0]))
    array([0.75])
    """
    columns, scores = _columns(targets, scores)
    counts = (columns == 1).sum(axis=0)
    total = np.where(columns == 1, scores, 0).sum(axis=0)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def counted_patients(
    targets: Shaped[np.ndarray, "n *k"], clusters: Shaped[np.ndarray, " rows"] | None
) -> tuple[Int[np.ndarray, " k"], list[str]]:
    """Returns of each label the patients with an image that counts, and why they are too few or "".

    >>> counted_patients(np.array([1, 1, np.nan]), np.array(["p1", "p2", "p3"]))[1]
    ['images that count of 2 patients in the test set (5 are needed)']
    """
    index = cluster_index(clusters, len(targets))[0]
    columns = targets.reshape(len(targets), -1).T
    held = [len(np.unique(index[column == 1])) for column in columns]
    said = "images that count of {} patients in the test set ({} are needed)"
    return np.array(held), [said.format(n, MINIMUM) if n < MINIMUM else "" for n in held]


def cluster_counts(
    num_clusters: int, num_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "c r"]:
    """Returns how often each cluster is drawn when num_clusters are drawn with replacement."""
    counts = np.empty((num_clusters, num_resamples))
    for resample in range(num_resamples):
        drawn = rng.integers(0, num_clusters, num_clusters)
        counts[:, resample] = np.bincount(drawn, minlength=num_clusters)
    return counts


class RankedLabel(NamedTuple):
    """One label's rows, sorted once: rows of each cluster per run of `rank_runs`, by class."""

    positives: scipy.sparse.csr_matrix  # [runs clusters]
    negatives: scipy.sparse.csr_matrix  # [runs clusters]
    folds: tuple[slice, ...]  # the runs of each fold


def rank_label(
    targets: Shaped[np.ndarray, " n"],
    scores: Shaped[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    num_clusters: int,
    fold: Int[np.ndarray, " n"] | None = None,
) -> RankedLabel:
    """Sorts one label's known rows, fold by fold; clusters are numbered 0 to num_clusters - 1.

    Raises ValueError where no row has a known target, and as `binary_rows` does.
    """
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    if not known.any():
        raise ValueError("no row has a known target: there is nothing to rank")
    positive, scores, clusters = targets[known] == 1, scores[known], clusters[known]
    fold = np.zeros(len(scores), int) if fold is None else fold[known]
    runs, num_runs, folds = np.empty(len(scores), np.int64), 0, []
    for own in (fold == one for one in np.unique(fold)):
        of_fold, count = rank_runs(positive[own], scores[own])
        runs[own] = num_runs + of_fold
        folds.append(slice(num_runs, num_runs + count))
        num_runs += count

    def count(chosen: Shaped[np.ndarray, " m"]) -> scipy.sparse.csr_matrix:
        entries = (np.ones(int(chosen.sum())), (runs[chosen], clusters[chosen]))
        return scipy.sparse.csr_matrix(entries, shape=(num_runs, num_clusters))

    return RankedLabel(count(positive), count(~positive), tuple(folds))


def weighted_auroc(label: RankedLabel, counts: Float[np.ndarray, "c r"]) -> Float[np.ndarray, " r"]:
    """Returns the AUROC of every resample, given how often it drew each cluster.

    It equals the AUROC of rows repeated as often as their cluster was drawn: sums stay whole
    numbers below 2**53, where float64 is exact. NaN where a class is absent.
    """
    every = label.positives @ counts, label.negatives @ counts
    doubled, pairs = np.zeros((2, counts.shape[1]))
    for own in label.folds:
        positives, negatives = (part[own] for part in every)
        up_to = np.cumsum(negatives, axis=0)
        doubled += np.einsum("gr,gr->r", positives, 2 * up_to - negatives)
        pairs += 2 * positives.sum(axis=0) * up_to[-1]
    return np.divide(doubled, pairs, out=np.full(counts.shape[1], np.nan), where=pairs > 0)


def label_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    fold: Int[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " k"]:
    """Returns each label's AUROC, NaN where it has one class only. Raises as `auroc` does."""
    columns, scores = _columns(targets, scores)
    return np.array([auroc(columns[:, k], scores[:, k], fold) for k in range(columns.shape[1])])


AUROC = Measure(label_auroc, resampled_auroc, rarer_class)
MEAN = Measure(label_mean, resampled_mean, counted_patients)


def _columns(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns targets and scores as [n k], one vector as k = 1; refuses shapes that differ."""
    if targets.ndim not in (1, 2):
        raise ValueError(f"targets have shape {targets.shape}: give [n] or [n labels]")
    if scores.shape != targets.shape:
        raise ValueError(f"targets have shape {targets.shape} and scores {scores.shape}")
    if targets.ndim == 2:
        return targets, scores
    return targets[:, None], scores[:, None]


def cluster_index(clusters: np.ndarray | None, num_rows: int) -> tuple[Int[np.ndarray, " n"], int]:
    """Returns the cluster of each row as a number from 0, and the number of clusters.

    Clusters are numbered in the order of their first rows, so that draws do not depend on their
    names: ids are hashed with a secret that every project has of its own. None: each row its own.

    >>> cluster_index(np.array(["p7", "p2", "p7"]), 3)
    (array([0, 1, 0]), 2)
    """
    if clusters is None:
        return np.arange(num_rows), num_rows
    if len(clusters) != num_rows:
        raise ValueError(f"clusters have {len(clusters)} rows and targets {num_rows}")
    names, first, index = np.unique(clusters, return_index=True, return_inverse=True)
    number = np.empty(len(names), np.int64)
    number[np.argsort(first)] = np.arange(len(names))
    return number[index], len(names)

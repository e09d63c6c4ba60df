"""Patient-clustered bootstrap of AUROC: intervals, and replicates for paired differences.

Patients, not images, are drawn with replacement, because images of one patient are not independent
(Field and Welsh 2007). A resample is then a whole-number weight for each patient, and the weighted
AUROCs of all resamples follow from one sort of the scores.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int, Shaped

from cxr_jax.stats.auroc import auroc, binary_rows, rank_runs

# Resamples go through in chunks whose run sums stay in the processor's cache: for 14 labels of
# 25,596 images 16 at a time take half the time of 128. Very many rows make the chunks smaller, so
# that weights and run sums hold about this many float64 (32 MiB) each.
_CHUNK_RESAMPLES = 16
_CHUNK_ELEMENTS = 2**22


class Interval(NamedTuple):
    """A bootstrap percentile interval; NaN where the quantity, or its limits, cannot be estimated.

    `num_resamples` were used and `num_excluded` left out because a class was absent in them. For
    several labels the interval is that of the macro mean over the labels that can be estimated, and
    `labels` holds one interval per label, in order; for one label `labels` is empty.
    """

    estimate: float
    low: float
    high: float
    num_resamples: int
    num_excluded: int
    labels: tuple["Interval", ...] = ()


def bootstrap_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Returns the interval of the AUROC, drawing clusters (patients) with replacement.

    Targets are 0, 1 or NaN (missing), [n] for one label or [n k] for k labels, whose intervals and
    macro come from the same resamples. `clusters` holds each row's patient, as strings or numbers;
    None takes every row as its own. A resample in which a label has one class only is excluded for
    that label and for the macro, so that the macro is always a mean over the same labels. With
    fewer than two clusters there is nothing to resample: no resample is used and the limits are
    NaN. Raises ValueError for shapes that differ and unusable targets or scores (naming the row).

    >>> targets, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.8])
    >>> interval = bootstrap_auroc(targets, scores, clusters=np.array(["p1", "p2", "p3", "p4"]))
    >>> interval.estimate, interval.num_resamples + interval.num_excluded
    (0.75, 1000)
    """
    estimates = label_auroc(targets, scores)
    values = resampled_auroc(targets, scores, clusters, num_resamples, seed)
    labels = tuple(
        _percentile(estimate, values[:, k], level) for k, estimate in enumerate(estimates)
    )
    if targets.ndim == 1:
        return labels[0]
    estimable = ~np.isnan(estimates)
    if not estimable.any():
        return _percentile(float("nan"), np.full(len(values), np.nan), level, labels)
    # A NaN in any label makes the resample's mean NaN: excluded for the macro too.
    means = values[:, estimable].mean(axis=1)
    return _percentile(estimates[estimable].mean(), means, level, labels)


def resampled_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
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
            ranked[k] = rank_label(columns[:, k], scores[:, k], index, num_clusters)
    if num_clusters < 2:
        return values
    rng = np.random.default_rng(seed)
    start = 0
    for size in _chunks(num_clusters, len(targets), num_resamples):
        counts = cluster_counts(num_clusters, size, rng)
        for k, label in ranked.items():
            values[start : start + size, k] = weighted_auroc(label, counts)
        start += size
    return values


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


def rank_label(
    targets: Shaped[np.ndarray, " n"],
    scores: Shaped[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    num_clusters: int,
) -> RankedLabel:
    """Sorts one label's known rows; clusters are numbered 0 to num_clusters - 1.

    Raises ValueError where no row has a known target, and as `binary_rows` does.
    """
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    if not known.any():
        raise ValueError("no row has a known target: there is nothing to rank")
    positive = targets[known] == 1
    runs, num_runs = rank_runs(positive, scores[known])
    clusters = clusters[known]

    def count(chosen: Shaped[np.ndarray, " m"]) -> scipy.sparse.csr_matrix:
        entries = (np.ones(int(chosen.sum())), (runs[chosen], clusters[chosen]))
        return scipy.sparse.csr_matrix(entries, shape=(num_runs, num_clusters))

    return RankedLabel(count(positive), count(~positive))


def weighted_auroc(label: RankedLabel, counts: Float[np.ndarray, "c r"]) -> Float[np.ndarray, " r"]:
    """Returns the AUROC of every resample, given how often it drew each cluster.

    It equals the AUROC of rows repeated as often as their cluster was drawn: sums stay whole
    numbers below 2**53, where float64 is exact. NaN where a class is absent.
    """
    positives, negatives = label.positives @ counts, label.negatives @ counts
    up_to = np.cumsum(negatives, axis=0)
    doubled = np.einsum("gr,gr->r", positives, 2 * up_to - negatives)
    pairs = 2 * positives.sum(axis=0) * up_to[-1]
    return np.divide(doubled, pairs, out=np.full(counts.shape[1], np.nan), where=pairs > 0)


def label_auroc(
    targets: Shaped[np.ndarray, "n *k"], scores: Shaped[np.ndarray, "..."]
) -> Float[np.ndarray, " k"]:
    """Returns each label's AUROC, NaN where it has one class only. Raises as `auroc` does."""
    columns, scores = _columns(targets, scores)
    return np.array([auroc(columns[:, k], scores[:, k]) for k in range(columns.shape[1])])


def _chunks(num_clusters: int, num_rows: int, num_resamples: int) -> Iterator[int]:
    size = max(1, min(_CHUNK_RESAMPLES, _CHUNK_ELEMENTS // max(num_clusters, num_rows)))
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)


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


def _percentile(
    estimate: float,
    values: Float[np.ndarray, " r"],
    level: float,
    labels: tuple[Interval, ...] = (),
) -> Interval:
    usable = values[~np.isnan(values)]
    low, high = np.nan, np.nan
    if usable.size:
        low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    excluded = values.size - usable.size
    return Interval(float(estimate), float(low), float(high), usable.size, excluded, labels)

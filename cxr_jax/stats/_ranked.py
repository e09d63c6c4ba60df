"""One label's rows sorted once, and its AUROC in every resample of patients from that."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int, Shaped

from cxr_jax.stats.auroc import binary_rows, rank_runs


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

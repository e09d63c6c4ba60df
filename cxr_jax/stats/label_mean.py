"""The mean of scores that images have of their own (Dice, hits), resampled by patient."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from cxr_jax.stats.clusters import CHUNK, MINIMUM, as_columns, cluster_counts, cluster_index


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
    columns, scores = as_columns(targets, scores)
    index, num_clusters = cluster_index(clusters, len(columns))
    values = np.full((num_resamples, columns.shape[1]), np.nan)
    if num_clusters < 2:
        return values
    counting = columns == 1
    sums, counts = np.zeros((2, num_clusters, columns.shape[1]))
    np.add.at(sums, index, np.where(counting, scores, 0))
    np.add.at(counts, index, counting)
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, CHUNK):
        chunk = values[start : start + CHUNK]
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
    columns, scores = as_columns(targets, scores)
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

"""Clusters of rows (the patients of images): numbered, drawn with replacement, and how few."""

import numpy as np
from jaxtyping import Float, Int

# Patients with a positive image, and patients with a negative one, below which an AUROC is not
# estimable: with fewer no interval held the true AUROC as often as it says, however wide.
MINIMUM = 5

# Resamples go through in chunks whose run sums stay in the processor's cache: for 14 labels of
# 25,596 images 16 at a time take half the time of 128.
CHUNK = 16


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


def cluster_counts(
    num_clusters: int, num_resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "c r"]:
    """Returns how often each cluster is drawn when num_clusters are drawn with replacement."""
    counts = np.empty((num_clusters, num_resamples))
    for resample in range(num_resamples):
        drawn = rng.integers(0, num_clusters, num_clusters)
        counts[:, resample] = np.bincount(drawn, minlength=num_clusters)
    return counts


def as_columns(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns targets and scores as [n k], one vector as k = 1; refuses shapes that differ."""
    if targets.ndim not in (1, 2):
        raise ValueError(f"targets have shape {targets.shape}: give [n] or [n labels]")
    if scores.shape != targets.shape:
        raise ValueError(f"targets have shape {targets.shape} and scores {scores.shape}")
    if targets.ndim == 2:
        return targets, scores
    return targets[:, None], scores[:, None]

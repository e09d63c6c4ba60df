"""Retrieval: which images find their own report among others', and which reports their image.

Both are unit vectors of one space (weights/text.py). Distractors are the pairs of other patients
whose report has other words: another image of the same patient, or a report that reads the same, is
neither right nor wrong. As is usual, reports that repeat each other count each.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from cxr_jax.stats.bootstrap import auroc_limits
from cxr_jax.stats.clusters import cluster_counts, cluster_index

DIRECTIONS = ("image to report", "report to image")
KS = (1, 5, 10)
_ROWS = 512  # of the matrix of cosines at a time


def ranks(
    images: Float[np.ndarray, "n d"],
    reports: Float[np.ndarray, "n d"],
    patients: Shaped[np.ndarray, " n"],
    words: Shaped[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
    """Returns each pair's rank in both DIRECTIONS, from 1, and how many distractors it has.

    Ties are lost: a distractor as near as the own one comes before it.

    >>> same = np.eye(2, 3)
    >>> ranks(same, same, np.array(["p", "q"]), np.array(["a", "b"]))[0].tolist()
    [[1, 1], [1, 1]]
    """
    images, reports = np.asarray(images, np.float64), np.asarray(reports, np.float64)
    place, count = np.empty((len(images), 2), int), np.empty(len(images), int)
    for start in range(0, len(images), _ROWS):
        rows = slice(start, start + _ROWS)
        others = (patients[rows, None] != patients) & (words[rows, None] != words)
        count[rows] = others.sum(axis=1)
        for column, (asked, found) in enumerate(((images, reports), (reports, images))):
            cosines = asked[rows] @ found.T
            own = np.take_along_axis(cosines, np.arange(len(images))[rows, None], axis=1)
            place[rows, column] = 1 + ((cosines >= own) & others).sum(axis=1)
    return place, count


def recall_rows(
    place: Int[np.ndarray, "n 2"],
    count: Int[np.ndarray, " n"],
    patients: Shaped[np.ndarray, " n"],
    num_resamples: int,
    seed: int,
    ks: Sequence[int] = KS,
) -> list[dict]:
    """Returns, by direction and k, the recall at k, its 95 % limits, and what guessing gives.

    Limits are Student's on the logit scale with the spread over resamples of patients, as those of
    AUROC (docs/statistics.md), with one degree of freedom less than there are patients.
    """
    index, number = cluster_index(patients, len(place))
    drawn = cluster_counts(number, num_resamples, np.random.default_rng(seed))
    total = np.bincount(index, minlength=number) @ drawn
    found = []
    for column, direction in enumerate(DIRECTIONS):
        for k in ks:
            hits = place[:, column] <= k
            values = np.bincount(index, hits, number) @ drawn / total
            low, high = auroc_limits(float(hits.mean()), values, float(max(number - 1, 1)))
            chance = float(np.minimum(k / (count + 1), 1).mean())
            recall = {"recall": float(hits.mean()), "low": low, "high": high, "chance": chance}
            found.append({"direction": direction, "k": k} | recall)
    return found

"""How fast is the bootstrap? `python -m benchmarks.bootstrap` prints it beside scikit-learn.

A test set as large as NIH ChestX-ray14's: 25,596 images of 2,797 patients, 14 labels held by .2 to
20 % of images, 1,000 resamples of patients. The rival is the loop that most code has, in the faster
of its two forms: `roc_auc_score` for every resample and label, with the drawn rows written out or
with their counts as weights. It is timed on a few of the same resamples and scaled.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cxr_jax.stats.bootstrap import bootstrap_auroc, resampled_auroc
from cxr_jax.stats.clusters import cluster_counts


class Images(NamedTuple):
    """Invented images: targets and scores [n k], the patient of each image [n]."""

    targets: Float[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]
    patients: Int[np.ndarray, " n"]


def invent(num_images: int, num_patients: int, num_labels: int, seed: int = 0) -> Images:
    """Images spread over patients at random, every patient with one or more."""
    rng = np.random.default_rng(seed)
    more = rng.integers(0, num_patients, num_images - num_patients)
    patients = np.sort(np.concatenate([np.arange(num_patients), more]))
    prevalence = np.linspace(0.002, 0.2, num_labels)
    targets = (rng.random((num_images, num_labels)) < prevalence).astype(np.float64)
    return Images(targets, rng.normal(size=targets.shape) + targets, patients)


def written_out(images: Images, counts: Float[np.ndarray, "c r"]) -> Float[np.ndarray, "r k"]:
    """AUROC [r k] by scikit-learn, every drawn row written out as often as it was drawn."""
    from sklearn.metrics import roc_auc_score

    values = []
    for drawn in counts.T:
        rows = np.repeat(np.arange(len(images.targets)), drawn[images.patients].astype(int))
        targets, scores = images.targets[rows], images.scores[rows]
        values.append([roc_auc_score(t, s) for t, s in zip(targets.T, scores.T, strict=True)])
    return np.array(values)


def weighted(images: Images, counts: Float[np.ndarray, "c r"]) -> Float[np.ndarray, "r k"]:
    """AUROC [r k] by scikit-learn, every row weighted by how often it was drawn."""
    from sklearn.metrics import roc_auc_score

    values = []
    for drawn in counts.T:
        weights = drawn[images.patients]
        columns = zip(images.targets.T, images.scores.T, strict=True)
        values.append([roc_auc_score(t, s, sample_weight=weights) for t, s in columns])
    return np.array(values)


def measure(images: Images, num_resamples: int, num_timed: int) -> list[dict[str, Any]]:
    """Seconds for `num_resamples` by each way, ours first, and how far the AUROCs lie apart.

    Best of three for ours and for scikit-learn: what other programs take is no cost of either.
    """
    _, ours = _best(lambda: bootstrap_auroc(*images, num_resamples))
    counts = cluster_counts(int(images.patients.max()) + 1, num_timed, np.random.default_rng(0))
    mine = resampled_auroc(*images, num_timed)
    rows = [{"what": "cxr_jax.stats.bootstrap_auroc", "seconds": ours, "apart": 0.0}]
    for what, way in (("rows written out", written_out), ("rows weighted", weighted)):
        values, seconds = _best(lambda way=way: way(images, counts))
        apart = float(np.nanmax(np.abs(values - mine)))
        scaled = seconds * num_resamples / num_timed
        rows.append({"what": f"roc_auc_score, {what}", "seconds": scaled, "apart": apart})
    return rows


def _best(work: Callable[[], Any]) -> tuple[Any, float]:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def main() -> None:
    num_resamples, num_timed = 1000, 2
    images = invent(25_596, 2_797, 14)
    rows = measure(images, num_resamples, num_timed)
    ours = rows[0]["seconds"]
    print(
        f"{num_resamples:,} patient-clustered resamples of {images.targets.shape[1]} labels on "
        f"{len(images.targets):,} images; {os.cpu_count()} processors, load "
        f"{os.getloadavg()[0]:.1f}; scikit-learn timed on {num_timed} resamples and scaled"
    )
    print(f"{'':34} {'seconds':>8} {'times ours':>11} {'AUROC apart':>12}")
    for row in rows:
        ratio = row["seconds"] / ours
        print(f"{row['what']:34} {row['seconds']:8.2f} {ratio:11.1f} {row['apart']:12.1e}")
    ratio = min(row["seconds"] for row in rows[1:]) / ours
    print(
        f"In words: the same AUROCs for {ratio:.0f} times less time than the faster scikit-learn "
        "loop; seconds are this machine's, the ratio was taken on it at one load and carries over."
    )


if __name__ == "__main__":
    main()

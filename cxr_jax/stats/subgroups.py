"""AUROC in subgroups of the test images: sex, age band, projection."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from cxr_jax.stats.bootstrap import bootstrap_auroc

_UNKNOWN = "unknown"
# Older than anyone has been: a fault of the table. The NIH set has ages up to 414.
_OLDEST = 120
_BANDS = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79"), (_OLDEST + 1, "80+"))


class SubgroupRow(NamedTuple):
    """One group's AUROC (macro mean over labels where there are several) with its interval.

    The counts are of images with a known target, summed over the labels that can be estimated in
    the group; where none can, over all labels. `note` is "" or says why numbers are NaN or what
    they are of: a reader must not take a missing number for a bad one.
    """

    group: str
    n_pos: int
    n_neg: int
    auroc: float
    low: float
    high: float
    note: str


def subgroup_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    clusters: Shaped[np.ndarray, " rows"] | None,
    groups: Shaped[np.ndarray, " images"],
    num_resamples: int = 1000,
    seed: int = 0,
    fold: Int[np.ndarray, " n"] | None = None,
) -> tuple[SubgroupRow, ...]:
    """Returns one row per group, by name; images whose group is "" are "unknown", the last row.

    Each group is scored and resampled (by its own patients) on its own images, with targets, scores
    and `clusters` as in `bootstrap_auroc`. Intervals of two groups that overlap do not show that
    the groups are alike, and groups differ in prevalence and case mix, not only in how well the
    model reads them. Raises ValueError as `bootstrap_auroc` does and for groups of another length.
    """
    for what, rows in (("clusters", clusters), ("groups", groups), ("scores", scores)):
        if rows is not None and len(rows) != len(targets):
            raise ValueError(f"{what} have {len(rows)} rows and targets {len(targets)}")
    names = np.asarray(groups).astype(str)
    names = np.where(names == "", _UNKNOWN, names)
    order = sorted(set(names.tolist()), key=lambda name: (name == _UNKNOWN, name))
    rows = []
    for name in order:
        own = names == name
        patients = None if clusters is None else clusters[own]
        folds = None if fold is None else fold[own]
        draws = dict(num_resamples=num_resamples, seed=seed, fold=folds)
        interval = bootstrap_auroc(targets[own], scores[own], patients, **draws)
        columns = targets[own].reshape(own.sum(), -1)
        estimable = np.array([not one.shortage for one in interval.labels or (interval,)])
        counted = columns[:, estimable if estimable.any() else slice(None)]
        notes = [interval.note]
        if estimable.any() and not estimable.all():
            notes.insert(0, f"mean over {estimable.sum()} of {len(estimable)} labels")
        note = "; ".join(filter(None, notes)).replace("in the test set", "in the group")
        counts = int((counted == 1).sum()), int((counted == 0).sum())
        rows.append(SubgroupRow(name, *counts, *interval[:3], note))
    return tuple(rows)


def age_band(age: float) -> str:
    """Returns the band of an age in years; "" where it is unknown: NaN, negative or above 120.

    >>> age_band(57.0), age_band(414.0)
    ('40-59', '')
    """
    if not 0 <= age <= _OLDEST:
        return ""
    return next(name for end, name in _BANDS if age < end)

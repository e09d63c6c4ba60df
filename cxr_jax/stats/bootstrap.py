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

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
from jaxtyping import Bool, Float, Int, Shaped

from cxr_jax.stats._ranked import rank_label, weighted_auroc
from cxr_jax.stats.auroc import auroc, binary_rows
from cxr_jax.stats.clusters import CHUNK, MINIMUM, as_columns, cluster_counts, cluster_index
from cxr_jax.stats.label_mean import counted_patients, label_mean, resampled_mean
from cxr_jax.stats.replication import satterthwaite, spread, with_pretrainings

# Very many rows make the chunks of resamples smaller, so that weights and run sums hold about this
# many float64 (32 MiB) each.
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
    scores: Shaped[np.ndarray, "..."] | Sequence[Shaped[np.ndarray, "..."]],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    fold: Int[np.ndarray, " n"] | None = None,
    measure: Measure | None = None,
) -> Interval:
    """Returns the AUROC and its interval, drawing clusters (patients) with replacement.

    Or that of another `measure`. A list of scores is of several pretrainings of one recipe: their
    mean, whose interval holds the variance between them (`with_pretrainings`).

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
    fewest, why = measure.counted(targets, clusters)
    estimable = ~np.array(why, bool)
    alone, values = of_pretrainings(
        measure, targets, scores, clusters, num_resamples, seed, fold, estimable
    )

    def interval(alone, values, fewest, labels=(), shortage=""):
        values, freedom = with_pretrainings(values, degrees(fewest), alone)
        estimate = float(alone.mean())
        limits = auroc_limits(estimate, values, freedom, level)
        return Interval(estimate, *limits, *used_excluded(values), labels, shortage)

    labels = tuple(
        interval(alone[:, k], values[:, k], fewest[[k]], (), reason) for k, reason in enumerate(why)
    )
    if targets.ndim == 1:
        return labels[0]
    if not estimable.any():
        return interval(alone[:, 0], values[:, 0], fewest, labels, "no label can be estimated")
    # A NaN in any label makes the resample's mean NaN: excluded for the macro too.
    means = values[:, estimable].mean(axis=1)
    return interval(alone[:, estimable].mean(axis=1), means, fewest[estimable], labels)


def of_pretrainings(
    measure: Measure,
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."] | Sequence[Shaped[np.ndarray, "..."]],
    clusters: Shaped[np.ndarray, " rows"] | None,
    num_resamples: int,
    seed: int,
    fold: Int[np.ndarray, " n"] | None,
    estimable: Bool[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, "p k"], Float[np.ndarray, "r k"]]:
    """Returns each pretraining's value of each label, and replicates of their mean.

    `scores` are one model's, or a list of those of p pretrainings. NaN where not `estimable`.
    """
    every = scores if isinstance(scores, list | tuple) else [scores]
    alone = np.stack([measure.alone(targets, one, fold) for one in every])
    values = np.mean(
        [measure.resampled(targets, one, clusters, num_resamples, seed, fold) for one in every],
        axis=0,
    )
    alone[:, ~estimable] = values[:, ~estimable] = np.nan
    return alone, values


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
    columns, scores = as_columns(targets, scores)
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
    most = max(1, min(CHUNK, _CHUNK_ELEMENTS // max(num_clusters, len(targets))))
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


def label_auroc(
    targets: Shaped[np.ndarray, "n *k"],
    scores: Shaped[np.ndarray, "..."],
    fold: Int[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " k"]:
    """Returns each label's AUROC, NaN where it has one class only. Raises as `auroc` does."""
    columns, scores = as_columns(targets, scores)
    return np.array([auroc(columns[:, k], scores[:, k], fold) for k in range(columns.shape[1])])


AUROC = Measure(label_auroc, resampled_auroc, rarer_class)
MEAN = Measure(label_mean, resampled_mean, counted_patients)

"""Area under the ROC curve, by counting pairs with ties exact, and average precision."""

import numpy as np
from jaxtyping import Float, Int, Shaped


def binary_rows(
    targets: Shaped[np.ndarray, " n"], scores: Shaped[np.ndarray, "..."]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns targets and scores as float64, checked.

    Targets are 0, 1 or NaN (missing), scores [n]. Infinite scores can be ranked and are allowed.
    Raises ValueError for shapes that differ and, naming the row, for any other target and for a NaN
    score where the target is known.
    """
    if targets.shape != scores.shape:
        raise ValueError(
            f"targets have shape {targets.shape} and scores {scores.shape}: "
            "give one score for each target, in the same order"
        )
    targets = np.asarray(targets, np.float64)
    scores = np.asarray(scores, np.float64)
    bad = np.flatnonzero(~((targets == 0) | (targets == 1) | np.isnan(targets)))
    if bad.size:
        raise ValueError(
            f"row {bad[0]}: target is {targets[bad[0]]}; targets must be 0, 1 or NaN (missing). "
            "Apply a policy to uncertain labels first"
        )
    bad = np.flatnonzero(np.isnan(scores) & ~np.isnan(targets))
    if bad.size:
        raise ValueError(f"row {bad[0]}: score is NaN; every row with a known target needs a score")
    return targets, scores


def rank_runs(
    positive: Shaped[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], int]:
    """Returns the run of each row when rows are sorted by score, and the number of runs.

    A run is either one group of tied scores that holds both classes or a stretch of neighbouring
    scores that all belong to one class. Within a run every (positive, negative) pair is a tie, so
    run numbers can stand in for scores, and far fewer runs than rows are needed when positives are
    rare: at most twice the rarer class, plus one.
    """
    order = np.argsort(scores, kind="stable")
    ranked, classes = scores[order], positive[order].astype(bool)
    group = np.cumsum(np.concatenate([[False], ranked[1:] != ranked[:-1]]))
    num_groups = int(group[-1]) + 1
    has_positive = np.bincount(group, classes, num_groups) > 0
    has_negative = np.bincount(group, ~classes, num_groups) > 0
    kind = has_positive + 2 * has_negative
    starts = np.concatenate([[False], (kind[1:] != kind[:-1]) | (kind[1:] == 3)])
    run_of_group = np.cumsum(starts)
    runs = np.empty(len(scores), np.int64)
    runs[order] = run_of_group[group]
    return runs, int(run_of_group[-1]) + 1


def auroc(
    targets: Shaped[np.ndarray, " n"],
    scores: Shaped[np.ndarray, "..."],
    fold: Int[np.ndarray, " n"] | None = None,
) -> float:
    """Returns the share of (positive, negative) pairs in which the positive wins; ties are half.

    The Mann-Whitney form of the area under the ROC curve (Hanley and McNeil 1982). The pairs are
    counted in whole numbers, so the result is exact to one rounding. Targets and scores are [n];
    rows whose target is NaN are left out. With `fold` [n], of a cross-validation, only pairs of one
    fold count, which one model scored: the mean of the folds' AUROCs, weighted by their pairs. NaN
    where a class is absent: the AUROC cannot be estimated. Raises ValueError as `binary_rows` does.

    >>> auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    positive, scores = targets[known] == 1, scores[known]
    fold = np.zeros(len(scores), int) if fold is None else fold[known]
    doubled = pairs = 0
    for own in (fold == one for one in np.unique(fold)):
        runs, num_runs = rank_runs(positive[own], scores[own])
        positives = np.bincount(runs[positive[own]], minlength=num_runs)
        negatives = np.bincount(runs[~positive[own]], minlength=num_runs)
        below = np.cumsum(negatives) - negatives
        # Twice the count keeps the half of a tie a whole number.
        doubled += int(positives @ (2 * below + negatives))
        pairs += 2 * int(positives.sum()) * int(negatives.sum())
    return doubled / pairs if pairs else float("nan")


def average_precision(
    targets: Shaped[np.ndarray, " n"], scores: Shaped[np.ndarray, "..."]
) -> float:
    """Returns precision averaged over recall: the sum over thresholds of (R_t - R_t-1) P_t.

    Every distinct score is one threshold, so the order of tied rows does not matter; nothing is
    interpolated between thresholds, which would flatter the curve (Davis and Goadrich 2006). A
    model that guesses scores the prevalence, not .5. Arguments, NaN and errors as in `auroc`.

    >>> average_precision(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.8333333333333333
    """
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    positive, scores = targets[known] == 1, scores[known]
    if not positive.any() or positive.all():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.cumsum(positive[order])[last]
    precision = found / (last + 1)
    return float(np.diff(found, prepend=0) @ precision / found[-1])

"""Average precision: the area under the precision-recall curve as a step function."""

import numpy as np
from jaxtyping import Shaped

from cxr_jax.stats.auroc import binary_rows


def average_precision(
    targets: Shaped[np.ndarray, " n"], scores: Shaped[np.ndarray, "..."]
) -> float:
    """Precision averaged over recall: the sum over thresholds of (R_t - R_t-1) P_t.

    Every distinct score is one threshold, so tied rows enter together and their order is of no
    matter; nothing is interpolated between thresholds, which would flatter the curve (Davis and
    Goadrich 2006). A model that guesses scores the prevalence, not .5. Targets and scores are [n];
    rows whose target is NaN are left out. NaN where a class is absent, as for AUROC. Raises
    ValueError as `binary_rows` does.
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

"""Average precision against scikit-learn and its definition, threshold by threshold."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cxr_jax.stats.average_precision import average_precision


def by_definition(targets, scores):
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        reached = (targets[called] == 1).sum() / (targets == 1).sum()
        total += (reached - recall) * (targets[called] == 1).mean()
        recall = reached
    return total


@pytest.mark.parametrize("levels", [1, 3, 20, 10**6])
@pytest.mark.parametrize("prevalence", [0.02, 0.5, 0.95])
def test_it_is_the_sum_over_thresholds(levels, prevalence):
    rng = np.random.default_rng(levels)
    for _ in range(10):
        targets = (rng.random(150) < prevalence).astype(np.float32)
        targets[:2] = 0, 1
        scores = rng.integers(0, levels, 150) + (levels > 5) * targets
        value = average_precision(targets, scores)
        assert value == pytest.approx(by_definition(targets, scores), abs=1e-12)
        assert value == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
        order = rng.permutation(150)
        assert average_precision(targets[order], scores[order]) == value


def test_by_hand():
    # Thresholds .8, .4, .1: precision 1, 2/3, 1/2 at recall 1/2, 1, 1.
    targets, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    assert average_precision(targets, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(np.array([0, 0, 1]), np.zeros(3)) == pytest.approx(1 / 3)
    assert average_precision(np.array([0, 1, 1]), np.array([-np.inf, 2, np.inf])) == 1


def test_missing_targets_are_left_out():
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 2, 200).astype(float), rng.normal(size=200)
    missing = rng.random(200) < 0.3
    masked, holes = np.where(missing, np.nan, targets), np.where(missing, np.nan, scores)
    assert average_precision(masked, holes) == average_precision(
        targets[~missing], scores[~missing]
    )


@pytest.mark.parametrize("targets", [[1, 1, 1], [0, 0, np.nan], [np.nan] * 3])
def test_one_class_is_not_estimable(targets):
    assert np.isnan(average_precision(np.array(targets, float), np.arange(3.0)))


@pytest.mark.parametrize(
    ("targets", "scores", "words"),
    [
        ([0, 1, 2], [0, 1, 2], "row 2: target is 2"),
        ([0, 1, 0], [0, np.nan, 2], "row 1: score is NaN"),
        ([0, 1], [0, 1, 2], r"shape \(2,\) and scores \(3,\)"),
    ],
)
def test_unusable_rows_are_named(targets, scores, words):
    with pytest.raises(ValueError, match=words):
        average_precision(np.array(targets, float), np.array(scores, float))

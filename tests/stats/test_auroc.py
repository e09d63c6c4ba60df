"""AUROC against pair counting and scikit-learn; average precision against its definition."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_jax.stats.auroc import auroc, average_precision, rank_runs


def count_pairs(targets, scores):
    positives, negatives = scores[targets == 1], scores[targets == 0]
    wins = int((positives[:, None] > negatives).sum())
    ties = int((positives[:, None] == negatives).sum())
    return Fraction(2 * wins + ties, 2 * len(positives) * len(negatives))


@pytest.mark.parametrize("levels", [2, 3, 10, 10**6])
@pytest.mark.parametrize("prevalence", [0.02, 0.5, 0.9])
def test_auroc_is_the_exact_share_of_pairs(levels, prevalence):
    rng = np.random.default_rng(levels)
    targets = (rng.random(400) < prevalence).astype(np.float32)
    targets[:2] = 0, 1
    scores = rng.integers(0, levels, 400) / levels + 0.1 * targets.round() * (levels > 10)
    assert auroc(targets, scores) == float(count_pairs(targets, scores))
    assert auroc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)


def test_auroc_by_hand():
    # Pairs: (.4>.1), (.4=.4 half), (.8>.1), (.8>.4) = 3.5 of 4.
    assert auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])) == 0.875
    assert auroc(np.array([0, 1]), np.array([0.0, 0.0])) == 0.5
    assert auroc(np.array([True, False]), np.array([2, 1])) == 1.0


def test_infinite_scores_are_ranked():
    assert auroc(np.array([0, 1, 1, 0]), np.array([-np.inf, np.inf, 0, 0])) == 0.875


@pytest.mark.parametrize("measure", [auroc, average_precision])
def test_missing_targets_are_left_out(measure):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 200).astype(float)
    scores = rng.normal(size=200)
    missing = rng.random(200) < 0.3
    masked, holes = np.where(missing, np.nan, targets), np.where(missing, np.nan, scores)
    assert measure(masked, holes) == measure(targets[~missing], scores[~missing])


@pytest.mark.parametrize("measure", [auroc, average_precision])
@pytest.mark.parametrize("targets", [[1, 1, 1], [0, 0, np.nan], [np.nan] * 3])
def test_one_class_is_not_estimable(targets, measure):
    assert np.isnan(measure(np.array(targets, float), np.arange(3.0)))


def test_no_rows_is_not_estimable():
    assert np.isnan(auroc(np.array([]), np.array([])))


@pytest.mark.parametrize("measure", [auroc, average_precision])
@pytest.mark.parametrize(
    ("targets", "scores", "words"),
    [
        ([0, 1, -1], [0, 1, 2], r"row 2: target is -1\.0.*uncertain"),
        ([0, 1, 2], [0, 1, 2], "row 2: target is 2"),
        ([0, 1, 0], [0, np.nan, 2], "row 1: score is NaN"),
        ([0, 1], [0, 1, 2], r"targets have shape \(2,\) and scores \(3,\)"),
    ],
)
def test_unusable_rows_are_named(targets, scores, words, measure):
    with pytest.raises(ValueError, match=words):
        measure(np.array(targets, float), np.array(scores, float))


def test_runs_keep_pairs_and_are_few():
    rng = np.random.default_rng(1)
    positive = rng.random(5000) < 0.01
    scores = rng.integers(0, 3000, 5000).astype(float)
    runs, num_runs = rank_runs(positive, scores)
    assert set(runs) == set(range(num_runs))
    assert num_runs <= 2 * positive.sum() + 1
    assert count_pairs(positive, runs) == count_pairs(positive, scores)


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
def test_average_precision_is_the_sum_over_thresholds(levels, prevalence):
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


def test_average_precision_by_hand():
    # Thresholds .8, .4, .1: precision 1, 2/3, 1/2 at recall 1/2, 1, 1.
    targets, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    assert average_precision(targets, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(np.array([0, 0, 1]), np.zeros(3)) == pytest.approx(1 / 3)
    assert average_precision(np.array([0, 1, 1]), np.array([-np.inf, 2, np.inf])) == 1

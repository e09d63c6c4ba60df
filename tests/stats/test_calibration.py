"""Calibration against scikit-learn, scipy and definitions written out row by row."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxr_jax.stats.bootstrap import resampled_auroc
from cxr_jax.stats.calibration import (
    bootstrap_brier,
    brier,
    brier_skill,
    expected_calibration_error,
    reliability,
    wilson_interval,
)


def draw_images(seed, n=600):
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(0.6, 2, n)
    return (rng.random(n) < probabilities**1.3).astype(np.float32), probabilities


def error_row_by_row(targets, probabilities, edges):
    """|rate - mean| of each bin (low, high], weighted by its images, with nothing vectorised."""
    total = 0.0
    for low, high in pairwise(edges):
        rows = [i for i, p in enumerate(probabilities) if low < p <= high]
        if rows:
            rate = sum(float(targets[i]) for i in rows) / len(rows)
            mean = sum(float(probabilities[i]) for i in rows) / len(rows)
            total += len(rows) / len(targets) * abs(rate - mean)
    return total


@pytest.mark.parametrize("num_bins", [1, 5, 10, 20])
def test_table_is_that_of_scikit_learn(num_bins):
    for seed in range(5):
        targets, probabilities = draw_images(seed)
        table = reliability(targets, probabilities, num_bins)
        rate, mean = calibration_curve(targets, probabilities, n_bins=num_bins, strategy="quantile")
        np.testing.assert_allclose(table.observed_rate, rate, atol=1e-12)
        np.testing.assert_allclose(table.mean_probability, mean, atol=1e-12)
        assert (table.count == 600 / num_bins).all()


def test_brier_is_that_of_scikit_learn():
    for seed in range(5):
        targets, probabilities = draw_images(seed)
        expected = brier_score_loss(targets, probabilities)
        assert brier(targets, probabilities) == pytest.approx(expected, abs=1e-12)
    always = np.full(4, 0.25)
    assert brier(np.array([0, 0, 0, 1]), always) == 0.25 * 0.75


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_error_is_the_definition_row_by_row(num_bins):
    for seed in range(5):
        targets, probabilities = draw_images(seed, n=210)
        ranked = sorted(probabilities)
        edges = [-1, *(ranked[210 // num_bins * k - 1] for k in range(1, num_bins + 1))]
        value = expected_calibration_error(targets, probabilities, num_bins)
        assert value == pytest.approx(error_row_by_row(targets, probabilities, edges), abs=1e-12)


def test_error_by_hand():
    targets, probabilities = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.8, 0.9])
    # Two and two: |.5 - .2| and |1 - .85|.
    value = expected_calibration_error(targets, probabilities, 2)
    assert value == pytest.approx(0.5 * 0.3 + 0.5 * 0.15)
    assert expected_calibration_error(targets, targets.astype(float)) == 0


def test_ties_are_never_parted():
    rng = np.random.default_rng(1)
    for _ in range(20):
        n = int(rng.integers(1, 60))
        probabilities = rng.integers(0, 4, n) / 4
        targets = rng.integers(0, 2, n)
        table = reliability(targets, probabilities, 7)
        assert table.count.sum() == n and (table.count > 0).all()
        assert len(table.count) <= len(set(probabilities))
        assert (np.diff(table.mean_probability) > 0).all()
        order = rng.permutation(n)
        again = reliability(targets[order], probabilities[order], 7)
        for mine, other in zip(table, again, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-14)


def test_equal_mass_differs_by_one_image_at_most():
    rng = np.random.default_rng(2)
    for n in range(10, 60):
        table = reliability(np.zeros(n), rng.permutation(n) / n, 7)
        assert len(table.count) == 7 and np.ptp(table.count) <= 1


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_that_of_scipy(level):
    for trials in (1, 2, 10, 500):
        for successes in {0, 1, trials // 3, trials}:
            expected = scipy.stats.binomtest(successes, trials).proportion_ci(level, "wilson")
            low, high = wilson_interval(np.array([successes]), np.array([trials]), level)
            np.testing.assert_allclose([low[0], high[0]], expected, atol=1e-12)
    targets, probabilities = draw_images(3)
    table = reliability(targets, probabilities, 10, level)
    expected = scipy.stats.binomtest(round(table.observed_rate[4] * 60), 60)
    assert (table.low[4], table.high[4]) == pytest.approx(
        tuple(expected.proportion_ci(level, "wilson"))
    )


def test_missing_targets_are_left_out():
    targets, probabilities = draw_images(4)
    masked, holes = targets.copy(), probabilities.copy()
    masked[:100], holes[:50] = np.nan, np.nan
    assert brier(masked, holes) == brier(targets[100:], probabilities[100:])
    for mine, other in zip(
        reliability(masked, holes), reliability(targets[100:], probabilities[100:]), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


def test_nothing_known_is_nan():
    nothing = np.full(3, np.nan), np.full(3, 0.5)
    assert np.isnan(brier(*nothing)) and np.isnan(expected_calibration_error(*nothing))
    assert all(column.shape == (0,) for column in reliability(*nothing))


@pytest.mark.parametrize("measure", [brier, reliability, expected_calibration_error])
@pytest.mark.parametrize(
    ("targets", "probabilities", "words"),
    [
        ([0, 1, 0], [0, 0.5, 1.1], r"row 2: probability is 1\.1.*cannot be calibrated"),
        ([0, 1, 0], [0, -0.5, 1], r"row 1: probability is -0\.5"),
        ([0, 1, 0], [0, np.nan, 1], "row 1: score is NaN"),
        ([0, -1, 0], [0, 0.5, 1], "row 1: target is -1"),
        ([0, 1], [0.5], r"shape \(2,\) and scores \(1,\)"),
    ],
)
def test_unusable_rows_are_named(measure, targets, probabilities, words):
    with pytest.raises(ValueError, match=words):
        measure(np.array(targets, float), np.array(probabilities, float))


def test_unusable_bins_are_refused():
    targets, probabilities = draw_images(0)
    with pytest.raises(ValueError, match="num_bins is 0"):
        expected_calibration_error(targets, probabilities, 0)


def test_skill_is_the_share_saved_of_always_saying_the_prevalence():
    targets, probabilities = draw_images(3)
    rate = np.full(len(targets), targets.mean(dtype=float))
    expected = 1 - brier_score_loss(targets, probabilities) / brier_score_loss(targets, rate)
    assert brier_skill(targets, probabilities) == pytest.approx(expected)
    assert brier_skill(targets, rate) == pytest.approx(0)
    assert brier_skill(targets, targets) == 1
    missing = np.append(targets, np.nan), np.append(probabilities, 0.9)
    assert brier_skill(*missing) == pytest.approx(expected)
    for one_class in (np.zeros(4), np.ones(4), np.full(4, np.nan)):
        assert np.isnan(brier_skill(one_class, np.full(4, 0.5)))


def test_resamples_are_rows_repeated_and_those_of_auroc():
    targets, probabilities = (np.stack([one, one[::-1]], axis=1) for one in draw_images(4, 90))
    targets[:10, 1] = np.nan
    clusters = np.array([f"person {i // 3}" for i in range(90)])
    values = bootstrap_brier(targets, probabilities, clusters, 40, 5)
    rng = np.random.default_rng(5)
    names = np.array(list(dict.fromkeys(clusters.tolist())))  # in the order of their images
    for row in values:
        drawn = names[rng.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(clusters == name) for name in drawn])
        assert row == pytest.approx(np.nanmean((probabilities - targets)[rows] ** 2, axis=0))
    # The same draws as of AUROC: where a class is absent from one it is absent from the other.
    few = np.array([1.0, 0.0, 0.0, 0.0])[:, None]
    aurocs = resampled_auroc(few, few, np.arange(4), 30, 1)
    errors = bootstrap_brier(few, 1 - few, np.where(few[:, 0] == 1, 0, np.arange(4)), 30, 1)
    assert errors == pytest.approx(np.ones((30, 1))) and np.isnan(aurocs).any()


def test_resamples_without_known_targets_and_single_clusters_are_nan():
    targets = np.array([[1.0], [np.nan]])
    values = bootstrap_brier(targets, np.full((2, 1), 0.5), np.arange(2), 40)
    assert np.isnan(values).any() and set(values[~np.isnan(values)]) == {0.25}
    alone = bootstrap_brier(np.eye(2), np.full((2, 2), 0.5), np.zeros(2, int), 5)
    assert alone.shape == (5, 2) and np.isnan(alone).all()

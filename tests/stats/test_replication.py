"""The variance between pretrainings: its size, its degrees, and coverage in simulated studies."""

import numpy as np
import pytest

from cxr_jax.report.benchmark.scores import Score, compared
from cxr_jax.stats.replication import between_draws, satterthwaite


@pytest.mark.parametrize("count", [2, 3, 5])
def test_draws_have_the_variance_of_a_mean(count):
    values = np.random.default_rng(count).normal(0.8, 0.02, count)
    draws = between_draws(values, 200_000, seed=1)
    assert np.var(draws) == pytest.approx(np.var(values, ddof=1) / count, rel=0.02)
    assert abs(draws.mean()) < 2e-4


def test_one_pretraining_says_nothing_of_others():
    assert not between_draws(np.array([0.8]), 10, seed=1).any()


def test_degrees_are_those_of_the_part_that_dominates():
    freedoms = np.array([100.0, 2.0])
    assert satterthwaite(np.array([1.0, 1e-9]), freedoms) == pytest.approx(100)
    assert satterthwaite(np.array([1e-9, 1.0]), freedoms) == pytest.approx(2)
    assert satterthwaite(np.zeros(2), freedoms) == 100


def study(rng, count, between):
    """Two encoders of equal worth, `count` pretrainings each, on the same simulated test set."""
    patients, own, scores = rng.normal(0, 0.02, 201), rng.normal(0, 0.01, (2, 201)), {}
    for row, name in enumerate("ab"):
        runs = rng.normal(0.8, between, count) + patients[0] + own[row, 0]
        away = runs.mean() + patients[1:] + own[row, 1:]
        scores[name] = Score(name, (0,), 100, runs[None], away[None], 200.0)
    return scores


@pytest.mark.parametrize("count", [2, 3])
def test_intervals_hold_the_truth_over_pretrainings(count):
    rng, held, alone, naive = np.random.default_rng(count), 0, 0, 0
    for _ in range(200):
        scores = study(rng, count, between=0.03)
        found = compared(scores, "a", "b")
        held += found.low <= 0 <= found.high
        low, high = scores["a"].interval
        alone += low <= 0.8 <= high
        apart = scores["a"].within - scores["b"].within
        naive += abs(found.difference) <= 1.97 * apart.std(ddof=1)
    assert held / 200 >= 0.92 and alone / 200 >= 0.92
    assert naive / 200 < 0.8  # what resampled patients alone would have said

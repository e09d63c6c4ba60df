"""Holm's procedure against closed testing, its definition and its properties."""

from itertools import combinations

import numpy as np
import pytest

from cxr_jax.stats.holm import holm


def closed_bonferroni(p_values):
    """Adjusted p of i: the largest Bonferroni p-value of any set of hypotheses that holds i.

    Holm's procedure is the closure of Bonferroni's test (Marcus, Peritz and Gabriel 1976).
    """
    m = len(p_values)
    adjusted = np.zeros(m)
    for size in range(1, m + 1):
        for chosen in combinations(range(m), size):
            p = min(1.0, size * min(p_values[i] for i in chosen))
            for i in chosen:
                adjusted[i] = max(adjusted[i], p)
    return adjusted


def rejected(p_values, alpha):
    """Step down: reject the smallest while it is at most alpha / hypotheses left."""
    left, out = list(range(len(p_values))), set()
    while left:
        i = min(left, key=lambda j: p_values[j])
        if p_values[i] > alpha / len(left):
            break
        out.add(i)
        left.remove(i)
    return out


def test_it_is_the_closure_of_bonferroni_and_rejects_as_the_procedure_does():
    rng = np.random.default_rng(0)
    for _ in range(100):
        p_values = rng.random(rng.integers(1, 8)) ** 3
        if rng.random() < 0.5:
            p_values = np.round(p_values, 1)  # ties, zeros and ones
        adjusted = holm(p_values)
        np.testing.assert_allclose(adjusted, closed_bonferroni(p_values), rtol=1e-14)
        for alpha in (0.013, 0.051, 0.217):
            assert set(np.flatnonzero(adjusted <= alpha)) == rejected(p_values, alpha)


def test_by_hand():
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02], rtol=1e-14
    )
    np.testing.assert_array_equal(holm(np.array([0.2])), [0.2])
    np.testing.assert_array_equal(holm(np.array([0.6, 0.7])), [1, 1])
    assert holm(np.array([])).shape == (0,)


def test_a_test_that_was_not_done_is_not_counted():
    rng = np.random.default_rng(1)
    for _ in range(20):
        p_values = rng.random(6)
        holes = np.insert(p_values, [0, 3, 6], np.nan)
        adjusted = holm(holes)
        np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(holes))
        np.testing.assert_array_equal(adjusted[~np.isnan(holes)], holm(p_values))
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()


def test_properties():
    rng = np.random.default_rng(2)
    for _ in range(50):
        p_values = rng.random(rng.integers(1, 20))
        adjusted = holm(p_values)
        assert (p_values <= adjusted).all() and (adjusted <= 1).all()
        assert (adjusted <= np.minimum(1, p_values * len(p_values))).all()  # Bonferroni's
        assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()
        order = rng.permutation(len(p_values))
        np.testing.assert_array_equal(holm(p_values[order]), adjusted[order])


@pytest.mark.parametrize("value", [-0.01, 1.5, np.inf])
def test_no_probability_is_refused(value):
    with pytest.raises(ValueError, match="p-value 1 is"):
        holm(np.array([0.5, value]))

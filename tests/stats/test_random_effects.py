"""Pooled differences: published figures, an implementation written out, and simulated coverage."""

import math

import numpy as np
import pytest
import scipy.stats

from cxr_jax.stats.random_effects import pool, restricted_maximum

# Vaccinated and control patients with and without tuberculosis in 13 trials (Colditz et al. 1994).
BCG = np.array(
    [
        (4, 119, 11, 128),
        (6, 300, 29, 274),
        (3, 228, 11, 209),
        (62, 13536, 248, 12619),
        (33, 5036, 47, 5761),
        (180, 1361, 372, 1079),
        (8, 2537, 10, 619),
        (505, 87886, 499, 87892),
        (29, 7470, 45, 7232),
        (17, 1699, 65, 1600),
        (186, 50448, 141, 27197),
        (5, 2493, 3, 2338),
        (27, 16886, 29, 17825),
    ],
    float,
)


def risk_ratios():
    """Logarithms of the risk ratio and their standard errors."""
    ill, well, ill_control, well_control = BCG.T
    all_, control = ill + well, ill_control + well_control
    logs = np.log(ill / all_) - np.log(ill_control / control)
    return logs, np.sqrt(1 / ill - 1 / all_ + 1 / ill_control - 1 / control)


def by_scoring(differences, errors):
    """REML by Fisher scoring (Viechtbauer 2005), Hartung and Knapp's interval, number by number."""
    y, v = list(differences), [error**2 for error in errors]
    k = len(y)
    tau2 = float(np.var(y, ddof=1))
    for _ in range(2000):
        w = [1 / (one + tau2) for one in v]
        total, squares, cubes = (sum(one**power for one in w) for power in (1, 2, 3))
        mean = sum(a * b for a, b in zip(w, y)) / total
        trace = total - squares / total
        score = sum(a * a * (b - mean) ** 2 for a, b in zip(w, y)) - trace
        information = squares - 2 * cubes / total + (squares / total) ** 2
        tau2 = max(0.0, tau2 + score / information)
    w = [1 / (one + tau2) for one in v]
    mean = sum(a * b for a, b in zip(w, y)) / sum(w)
    q = sum(a * (b - mean) ** 2 for a, b in zip(w, y)) / (k - 1)
    return tau2, mean, math.sqrt(max(1.0, q) / sum(w)), q


def test_published_figures_of_the_bcg_trials():
    """Against metafor's printout of rma(yi, vi, test="knha"), whose method is REML."""
    found = pool(*risk_ratios())
    assert round(found.tau2, 4) == 0.3132
    assert round(found.difference, 4) == -0.7145
    assert round(100 * found.i2, 2) == 92.22
    assert round(found.standard_error, 4) == 0.1808
    assert (round(found.low, 4), round(found.high, 4)) == (-1.1084, -0.3206)
    assert round(found.p_value, 4) == 0.0019
    assert found.num_datasets == 13 and found.verdict == "loss"


@pytest.mark.parametrize("seed", range(12))
def test_same_as_written_out(seed):
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.005, 0.04, 3 + seed % 6)
    y = rng.normal(0.02, np.hypot(errors, 0.03 * (seed % 3)))
    tau2, mean, error, _ = by_scoring(y, errors)
    found = pool(y, errors)
    assert found.tau2 == pytest.approx(tau2, rel=1e-4, abs=1e-9)
    assert found.difference == pytest.approx(mean, abs=1e-7)
    assert found.standard_error == pytest.approx(error, rel=1e-5)
    half = scipy.stats.t.ppf(0.975, len(y) - 1)
    assert found.high - found.low == pytest.approx(2 * half * error, rel=1e-5)
    width = 2 * half * math.sqrt(tau2 + error**2)
    assert found.new_high - found.new_low == pytest.approx(width, rel=1e-4)
    assert (found.p_value <= 0.05) == (found.low > 0 or found.high < 0)


def test_equal_errors_give_the_known_solution():
    y = np.array([0.0, 0.02, 0.04, 0.1])
    assert restricted_maximum(y, np.full(4, 1e-4)) == pytest.approx(np.var(y, ddof=1) - 1e-4)
    assert restricted_maximum(y / 100, np.full(4, 1e-4)) == 0


def test_chance_agreement_does_not_narrow_the_interval():
    y, errors = np.array([0.03, 0.0301, 0.0299]), np.array([0.02, 0.03, 0.01])
    *_, error, scatter = by_scoring(y, errors)
    assert scatter < 1e-3 and pool(y, errors).standard_error == pytest.approx(error)
    assert pool(y, errors).tau2 == 0 and pool(y, errors).verdict == "inconclusive"


@pytest.mark.parametrize("tau", [0.0, 0.03])
@pytest.mark.parametrize("count", [3, 6])
def test_interval_holds_the_mean_as_often_as_it_says(count, tau):
    rng, held = np.random.default_rng(count), 0
    for _ in range(150):
        errors = rng.uniform(0.005, 0.03, count)
        found = pool(rng.normal(0.01, np.hypot(errors, tau)), errors)
        held += found.low <= 0.01 <= found.high
    assert held / 150 >= 0.92


@pytest.mark.parametrize(
    "words, differences, errors",
    [
        ("2 datasets: at least 3", [0.1, 0.2], [0.1, 0.1]),
        ("dataset 1 has difference 0.2 with standard error 0.0", [0.1, 0.2, 0.3], [0.1, 0, 0.1]),
        ("dataset 2 has difference nan", [0.1, 0.2, np.nan], [0.1, 0.1, 0.1]),
    ],
)
def test_refused(words, differences, errors):
    with pytest.raises(ValueError, match=words):
        pool(np.array(differences), np.array(errors, float))


def test_pretrainings_that_err_alike_everywhere_widen_the_interval():
    rng, held, without = np.random.default_rng(0), 0, 0
    for _ in range(150):
        errors, count = rng.uniform(0.005, 0.02, 6), 3
        common = rng.normal(0, 0.03, (count, 1)) + rng.normal(0, 0.005, (count, 6))
        y = common.mean(axis=0) + rng.normal(0, errors)
        errors = np.hypot(errors, common.std(axis=0, ddof=1) / math.sqrt(count))
        found = pool(y, errors, pretrainings=[common])
        held += found.low <= 0 <= found.high
        alone = pool(y, errors)
        without += alone.low <= 0 <= alone.high
    assert held / 150 >= 0.92 and without / 150 < 0.85


def test_covariances_between_datasets_are_added_by_their_weights():
    y, errors = np.array([0.0, 0.05, 0.1]), np.array([0.01, 0.02, 0.03])
    values = np.random.default_rng(1).normal(0, 0.02, (4, 1)) * [1.0, 0.5, 1.5]
    alone, found = pool(y, errors), pool(y, errors, pretrainings=[values])
    weights = 1 / (errors**2 + alone.tau2)
    covariances = np.cov(values.T) - np.diag(values.var(axis=0, ddof=1))
    more = weights @ covariances @ weights / weights.sum() ** 2 / 4
    assert found.standard_error**2 == pytest.approx(alone.standard_error**2 + more)
    assert found.difference == alone.difference
    opposed = pool(y, errors, pretrainings=[values * [1, -1, -1]])
    assert opposed.standard_error >= alone.standard_error

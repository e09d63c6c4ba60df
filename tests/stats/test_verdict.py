"""Verdicts: their definitions, their error rates in simulation, and Holm over datasets."""

from itertools import combinations

import numpy as np
import pytest
import scipy.stats

from cxr_jax.stats.auroc import auroc
from cxr_jax.stats.bootstrap import resampled_auroc
from cxr_jax.stats.delong import delong_test
from cxr_jax.stats.verdict import compare_auroc, correct_verdicts, holm, judge


def draw_images(rng, n=300, labels=2, gain=0.0):
    """Two models whose errors are half shared; `gain` moves a's positives up."""
    patients = rng.integers(0, n // 2, n)
    targets = (rng.random((n, labels)) < 0.4).astype(float)
    shared = rng.normal(size=targets.shape) + targets
    a, b = (shared + rng.normal(size=targets.shape) for _ in range(2))
    return targets, a + gain * targets, b, patients


def replicates(mean, error, r=999):
    """Replicates at the quantiles of a normal distribution with this mean and spread."""
    values = scipy.stats.norm.ppf((np.arange(r) + 0.5) / r)
    return mean + error * values / values.std(ddof=1)


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (0.05, 0.01, "win"),
        (-0.05, 0.01, "loss"),
        (0.01, 0.001, "negligible"),  # below the margin, and yet a difference
        (-0.01, 0.001, "negligible"),
        (0.018, 0.005, "win"),  # its interval reaches beyond the margin
        (0.0, 0.005, "tie"),
        (0.005, 0.006, "tie"),
        (0.0, 0.02, "inconclusive"),
        (0.015, 0.01, "inconclusive"),  # the interval holds 0 and passes the margin
        (-0.015, 0.01, "inconclusive"),
    ],
)
def test_verdicts_by_definition(mean, error, verdict):
    got = judge(0.8 + mean, 0.8, replicates(mean, error))
    assert got.verdict == verdict
    assert got.difference == pytest.approx(mean)
    assert got.standard_error == pytest.approx(error)
    quantiles = scipy.stats.norm.ppf([0.975, 0.8])
    assert got.detectable == pytest.approx(sum(quantiles) * error)
    assert (got.low, got.high) == pytest.approx(scipy.stats.norm.interval(0.95, mean, error))
    p_value = max(2 * scipy.stats.norm.sf(abs(mean) / error), 2 / 1000)
    assert got.p_value == got.p_adjusted == pytest.approx(p_value)


def test_few_patients_widen_the_interval_and_the_p_value_alike():
    """Student's: the p-value is at most .05 where the interval leaves out zero, and only there."""
    for freedom in (4.0, 9.0, 100.0):
        t = scipy.stats.t(freedom)
        for mean in (0.0, t.ppf(0.974) * 0.01, t.ppf(0.976) * 0.01, 0.2):
            got = judge(0.7 + mean, 0.7, replicates(mean, 0.01), freedom=freedom)
            limits = np.array(t.interval(0.95)) * 0.01 + mean
            assert (got.low, got.high) == pytest.approx(limits)
            assert (got.p_value <= 0.05) == (got.low > 0)
            assert got.detectable == pytest.approx(0.01 * (t.ppf(0.975) + t.ppf(0.8)))


def test_margin_and_level_are_fields_that_decide():
    values = replicates(0.0, 0.005)
    assert judge(0.8, 0.8, values, margin=0.005).verdict == "inconclusive"
    assert judge(0.8, 0.8, values, margin=0.015).verdict == "tie"
    values = replicates(0.01, 0.005)
    assert judge(0.81, 0.8, values, margin=0.03, level=0.9).verdict == "negligible"
    assert judge(0.81, 0.8, values, margin=0.01, level=0.9).verdict == "win"
    assert judge(0.81, 0.8, values, margin=0.03, level=0.99).verdict == "tie"


def test_p_of_exactly_alpha_is_significant():
    """No p-value of 19 replicates is below 2 / 20, which is not quite 1 - .9 in binary."""
    fewest = judge(0.85, 0.8, replicates(0.05, 0.01, r=19), level=0.9)
    assert fewest.p_value == 0.1 and correct_verdicts([fewest])[0].verdict == "win"


def test_detectable_difference_is_found_with_power_eighty_per_cent():
    """Draw estimates with the true difference at `detectable`: 4 in 5 intervals leave out zero."""
    rng = np.random.default_rng(1)
    detectable = judge(0.8, 0.8, replicates(0, 0.01)).detectable
    found = 0
    for _ in range(1000):
        estimate = detectable + 0.01 * rng.normal()
        found += judge(0.8 + estimate, 0.8, replicates(estimate, 0.01)).verdict == "win"
    assert found / 1000 == pytest.approx(0.8, abs=0.04)


def test_comparison_reads_the_replicates_of_both_models_row_by_row():
    rng = np.random.default_rng(2)
    targets, a, b, patients = draw_images(rng, labels=3)
    targets[:, 1] = np.where(rng.random(300) < 0.5, np.nan, 0)
    got = compare_auroc(targets, a, b, patients, 200, seed=5)
    of_a, of_b = (resampled_auroc(targets, scores, patients, 200, seed=5) for scores in (a, b))
    usable = (of_a - of_b)[:, [0, 2]]
    for mine, values in ((got, usable.mean(axis=1)), *zip(got.labels[::2], usable.T, strict=True)):
        assert mine.standard_error == pytest.approx(values.std(ddof=1))
        assert (mine.low + mine.high) / 2 == pytest.approx(mine.difference)
        assert mine.difference == pytest.approx(mine.auroc_a - mine.auroc_b)
        assert (mine.num_resamples, mine.num_excluded) == (200, 0)
    assert (got.labels[1].num_resamples, got.labels[1].num_excluded) == (0, 200)
    each = [auroc(targets[:, k], a[:, k]) for k in (0, 2)]
    assert got.auroc_a == np.mean(each)
    assert got.labels[1].verdict == "not estimable" and np.isnan(got.labels[1].p_value)
    vector = compare_auroc(targets[:, 0], a[:, 0], b[:, 0], patients, 200, seed=5)
    assert vector == got.labels[0] and vector.labels == ()


def test_swapping_the_models_swaps_the_verdict():
    rng = np.random.default_rng(3)
    targets, a, b, patients = draw_images(rng, gain=1.0)
    forth = compare_auroc(targets, a, b, patients, 400)
    back = compare_auroc(targets, b, a, patients, 400)
    assert (forth.verdict, back.verdict) == ("win", "loss")
    assert back.difference == -forth.difference and back.p_value == forth.p_value
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert back.detectable == pytest.approx(forth.detectable)


def test_same_scores_tie_with_p_one():
    targets, a, _, patients = draw_images(np.random.default_rng(4))
    got = compare_auroc(targets, a, a, patients, 100)
    assert got.verdict == "tie" and got.p_value == 1
    assert got[3:7] == (0, 0, 0, 0) and np.isnan(got.detectable)


def test_two_perfect_models_of_ten_images_are_not_a_tie():
    targets = np.repeat([0, 1], 5)
    got = compare_auroc(targets, targets, 2 * targets + np.arange(10) / 100, None, 200)
    assert got.auroc_a == got.auroc_b == 1
    assert got.verdict == "inconclusive" and np.isnan(got.detectable)


def test_nothing_to_compare_is_not_estimable():
    targets, a, b, patients = draw_images(np.random.default_rng(5))
    for none in (np.zeros_like(targets), np.full_like(targets, np.nan)):
        got = compare_auroc(none, a, b, patients, 20)
        assert got.verdict == "not estimable" and np.isnan(got[1:10]).all()
        assert (got.num_resamples, got.num_excluded) == (0, 20)
    few = np.minimum(np.arange(300), 3)  # four patients
    assert compare_auroc(targets, a, b, few, 20).verdict == "not estimable"


def test_equal_models_rarely_win_or_lose_and_errors_agree_with_delong():
    """300 simulated test sets of equal models: 5 % win or lose; Monte Carlo error 1.3 points."""
    rng = np.random.default_rng(6)
    verdicts, ratios = [], []
    for simulation in range(300):
        targets, a, b, _ = draw_images(rng, n=160, labels=1)
        targets, a, b = targets[:, 0], a[:, 0], b[:, 0]
        got = compare_auroc(targets, a, b, None, 200, seed=simulation)
        verdicts.append(got.verdict)
        ratios.append(got.standard_error / delong_test(targets, a, b).standard_error)
    share = np.mean(np.isin(verdicts, ["win", "loss"]))
    assert 0.01 < share < 0.09
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)


def test_correction_takes_wins_away():
    strong = judge(0.9, 0.8, replicates(0.1, 0.01))
    weak = judge(0.83, 0.8, replicates(0.03, 0.0143))
    small = judge(0.807, 0.8, replicates(0.007, 0.00333))
    none = judge(np.nan, np.nan, np.full(999, np.nan))
    given = [c.verdict for c in (strong, weak, small, none)]
    assert given == ["win", "win", "negligible", "not estimable"]
    corrected = correct_verdicts([strong, none, weak, small])
    assert [c.verdict for c in corrected] == ["win", "not estimable", "inconclusive", "tie"]
    assert corrected[0].p_adjusted == pytest.approx(3 * strong.p_value)
    assert np.isnan(corrected[1].p_adjusted)
    for before, after in zip([strong, none, weak, small], corrected, strict=True):
        unchanged = {"verdict": "", "p_adjusted": 0.0}
        np.testing.assert_equal(after._replace(**unchanged), before._replace(**unchanged))
    assert correct_verdicts([weak]) == (weak,)
    assert correct_verdicts([]) == ()


def test_correction_never_makes_a_win():
    rng = np.random.default_rng(8)
    for _ in range(30):
        given = [judge(0.8 + d, 0.8, replicates(d, 0.01)) for d in rng.normal(0, 0.03, 5)]
        for before, after in zip(given, correct_verdicts(given), strict=True):
            assert after.p_adjusted >= before.p_value
            assert after.verdict == before.verdict or before.verdict in (
                "win",
                "loss",
                "negligible",
            )


def test_too_few_resamples_for_the_correction_are_refused():
    given = [judge(0.9, 0.8, replicates(0.1, 0.01, r=99)) for _ in range(3)]
    with pytest.raises(ValueError, match=r"comparison 0 has 99 resamples: over 3.*fewer than 119"):
        correct_verdicts(given)
    enough = [judge(0.9, 0.8, replicates(0.1, 0.01, r=119)) for _ in range(3)]
    assert [c.verdict for c in correct_verdicts(enough)] == ["win"] * 3
    one_less = [judge(0.9, 0.8, replicates(0.1, 0.01, r=118)) for _ in range(3)]
    with pytest.raises(ValueError, match="118 resamples"):
        correct_verdicts(one_less)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores_b": np.arange(5.0)}, r"shape \(4,\) and scores \(5,\)"),
        ({"scores_a": np.array([0, np.nan, 1, 2])}, "row 1: score is NaN"),
        ({"targets": np.array([0, 1, 1, 7])}, "row 3: target is 7"),
        ({"clusters": np.arange(3)}, "clusters have 3 rows and targets 4"),
        ({"num_resamples": 0}, "num_resamples is 0"),
        ({"margin": 0.0}, "margin is 0"),
        ({"margin": -0.02}, "margin is -0.02"),
    ],
)
def test_unusable_input_is_refused(change, words):
    given = {
        "targets": np.array([0, 1, 1, 0]),
        "scores_a": np.arange(4.0),
        "scores_b": np.arange(4.0),
        "clusters": np.arange(4),
    }
    with pytest.raises(ValueError, match=words):
        compare_auroc(**(given | change))


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


def test_holm_is_the_closure_of_bonferroni_and_rejects_as_the_procedure_does():
    rng = np.random.default_rng(0)
    for _ in range(100):
        p_values = rng.random(rng.integers(1, 8)) ** 3
        if rng.random() < 0.5:
            p_values = np.round(p_values, 1)  # ties, zeros and ones
        adjusted = holm(p_values)
        np.testing.assert_allclose(adjusted, closed_bonferroni(p_values), rtol=1e-14)
        for alpha in (0.013, 0.051, 0.217):
            assert set(np.flatnonzero(adjusted <= alpha)) == rejected(p_values, alpha)


def test_holm_by_hand():
    np.testing.assert_allclose(
        holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02], rtol=1e-14
    )
    np.testing.assert_array_equal(holm(np.array([0.2])), [0.2])
    np.testing.assert_array_equal(holm(np.array([0.6, 0.7])), [1, 1])
    assert holm(np.array([])).shape == (0,)


def test_holm_does_not_count_a_test_that_was_not_done():
    rng = np.random.default_rng(1)
    for _ in range(20):
        p_values = rng.random(6)
        holes = np.insert(p_values, [0, 3, 6], np.nan)
        adjusted = holm(holes)
        np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(holes))
        np.testing.assert_array_equal(adjusted[~np.isnan(holes)], holm(p_values))
    assert np.isnan(holm(np.array([np.nan, np.nan]))).all()


def test_holm_never_falls_below_a_smaller_p_or_passes_bonferroni():
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
def test_holm_refuses_what_is_not_a_probability(value):
    with pytest.raises(ValueError, match="p-value 1 is"):
        holm(np.array([0.5, value]))

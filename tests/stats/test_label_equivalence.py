"""Label equivalence: known ratios are recovered, what was not measured is a bound."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from cxr_jax.stats.label_equivalence import label_equivalence

LABELS = np.array([10, 50, 100, 500, 1000, 5000])


def curve(labels, gain=1.0):
    """AUROC that grows with log(labels); `gain` times fewer labels do the same."""
    return 0.6 + 0.04 * np.log(gain * np.asarray(labels, float))


def around(auroc, rng, error, r=400):
    return auroc + error * rng.normal(size=(r, len(auroc)))


@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0, 3.4])
@pytest.mark.parametrize("at", [50, 120, 700, 1000])
def test_shift_of_a_log_curve_is_the_ratio(gain, at):
    a, b = curve(LABELS, gain), curve(LABELS)
    got = label_equivalence(LABELS, a, b, a[None], b[None], at)
    assert got.ratio == pytest.approx(gain, rel=1e-12)
    assert got.labels_a == at and got.labels_b == pytest.approx(gain * at, rel=1e-12)
    assert (got.bound, got.low_bound, got.high_bound) == ("", "", "")
    assert (got.low, got.high) == (got.ratio, got.ratio)
    assert (got.num_resamples, got.num_excluded) == (1, 0)


def test_identical_curves_are_equal_however_noisy():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a = 0.7 + 0.05 * rng.normal(size=6)  # mostly not rising: flat after isotonic regression
        replicates = around(a, rng, 0.03, 40)
        at = float(rng.choice([*LABELS, *rng.uniform(10, 5000, 3)]))
        got = label_equivalence(LABELS, a, a, replicates, replicates, at)
        assert (got.ratio, got.low, got.high) == pytest.approx((1, 1, 1), rel=1e-12)
        assert (got.bound, got.low_bound, got.high_bound) == ("", "", "")


def test_never_reached_is_at_least_and_reached_at_once_is_at_most():
    a, b = curve(LABELS, 30), curve(LABELS)
    never = label_equivalence(LABELS, a, b, a[None], b[None], 500)
    assert (never.labels_b, never.ratio) == pytest.approx((5000, 10))
    assert (never.bound, never.low_bound, never.high_bound) == ("at least",) * 3
    at_once = label_equivalence(LABELS, b, a, b[None], a[None], 100)
    assert (at_once.labels_b, at_once.ratio) == pytest.approx((10, 0.1))
    assert (at_once.bound, at_once.low_bound, at_once.high_bound) == ("at most",) * 3


def test_interval_holds_the_ratio_and_its_ends_may_be_bounds():
    rng = np.random.default_rng(1)
    a, b = curve(LABELS, 3.0), curve(LABELS)
    got = label_equivalence(LABELS, a, b, around(a, rng, 0.01), around(b, rng, 0.01), 500)
    assert 1 < got.low < 3 < got.high < 10 and got.high_bound == got.low_bound == ""
    wide = label_equivalence(LABELS, a, b, around(a, rng, 0.04), around(b, rng, 0.04), 1000)
    assert wide.bound == "" and wide.high == pytest.approx(5) and wide.high_bound == "at least"
    assert wide.low_bound == ""
    less = label_equivalence(
        LABELS, a, b, around(a, rng, 0.04), around(b, rng, 0.04), 1000, level=0.5
    )
    assert wide.low < less.low < 3 and less.low_bound == ""


def test_limits_are_replicates_counted_outwards():
    """With ratios 1 to 101 known one by one: 95 % of them lie between replicates 3 and 99."""
    gains = 1 + np.arange(101) / 100
    a = np.stack([curve(LABELS, gain) for gain in gains])
    b = np.stack([curve(LABELS)] * 101)
    order = np.random.default_rng(2).permutation(101)
    got = label_equivalence(LABELS, a[50], b[50], a[order], b[order], 100)
    assert (got.low, got.high) == pytest.approx((gains[2], gains[98]))


def test_replicates_are_paired():
    """Noise that both share, resample by resample, does not widen the interval."""
    rng = np.random.default_rng(3)
    a, b = curve(LABELS, 2.0), curve(LABELS)
    shared = 0.03 * rng.normal(size=(300, 1))
    got = label_equivalence(LABELS, a, b, a + shared, b + shared, 100)
    assert (got.low, got.high) == pytest.approx((2, 2))


def test_coverage_is_near_nominal():
    """300 simulated studies; the 95 % interval holds the true ratio about 95 times in 100.

    A normal parametric bootstrap: the replicates scatter about the estimates as these scatter about
    the truth. Monte Carlo error 1.3 points.
    """
    rng = np.random.default_rng(4)
    a, b, held = curve(LABELS, 2.5), curve(LABELS), 0
    for _ in range(300):
        seen_a, seen_b = around(a, rng, 0.008, 1)[0], around(b, rng, 0.008, 1)[0]
        replicates = [around(seen, rng, 0.008, 100) for seen in (seen_a, seen_b)]
        got = label_equivalence(LABELS, seen_a, seen_b, *replicates, 200)
        held += got.low <= 2.5 <= got.high
    assert 0.90 <= held / 300 <= 0.99


def test_inverse_of_the_isotonic_curve():
    """B's monotone curve at the labels found is A's at the labels given."""
    rng = np.random.default_rng(5)
    logs = np.log(LABELS)
    checked = 0
    for _ in range(200):
        a, b = (curve(LABELS) + 0.04 * rng.normal(size=6) for _ in range(2))
        at = float(np.exp(rng.uniform(logs[0], logs[-1])))
        got = label_equivalence(LABELS, a, b, a[None], b[None], at)
        monotone = [IsotonicRegression().fit(logs, values).predict(logs) for values in (a, b)]
        target = np.interp(np.log(at), logs, monotone[0])
        reached = np.interp(np.log(got.labels_b), logs, monotone[1])
        if got.bound == "":
            assert reached == pytest.approx(target, abs=1e-9)
            checked += 1
        elif got.bound == "at least":
            assert got.labels_b == pytest.approx(5000) and reached < target
        else:
            assert got.labels_b == pytest.approx(10) and reached > target
    assert checked > 100


def test_where_b_is_flat_the_smallest_claim_is_made():
    a = np.array([0.6, 0.7, 0.7, 0.7, 0.8, 0.9])
    b = np.array([0.5, 0.6, 0.6, 0.7, 0.7, 0.8])  # .7 from 500 to 1000 labels
    assert label_equivalence(LABELS, a, b, a[None], b[None], 50).labels_b == pytest.approx(500)
    assert label_equivalence(LABELS, a, b, a[None], b[None], 500).ratio == pytest.approx(1)
    assert label_equivalence(LABELS, b, a, b[None], a[None], 1000).labels_b == pytest.approx(500)


def test_replicates_with_a_hole_are_left_out_and_counted():
    rng = np.random.default_rng(6)
    a, b = curve(LABELS, 2.0), curve(LABELS)
    replicates_a, replicates_b = around(a, rng, 0.01, 60), around(b, rng, 0.01, 60)
    whole = label_equivalence(LABELS, a, b, replicates_a[10:], replicates_b[10:], 100)
    replicates_a[:5, 2], replicates_b[5:10, 0] = np.nan, np.nan
    got = label_equivalence(LABELS, a, b, replicates_a, replicates_b, 100)
    assert (got.num_resamples, got.num_excluded) == (50, 10)
    assert got[:8] == whole[:8]
    nothing = label_equivalence(LABELS, a, b, replicates_a[:10], replicates_b[:10], 100)
    assert nothing.ratio == got.ratio and np.isnan(nothing.low) and np.isnan(nothing.high)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.array([1, 2, 2])}, "number of labels 2 is 2: they must rise"),
        ({"labels": np.array([0, 2, 3])}, "number of labels 0 is 0"),
        ({"labels": np.array([5])}, "1 numbers of labels"),
        ({"at": 9.0}, "at is 9: curves were measured from 1 to 4"),
        ({"at": float("nan")}, "at is nan"),
        ({"auroc_b": np.array([0.5, np.nan, 0.7])}, "auroc_b is NaN at 2 labels"),
        ({"auroc_a": np.array([0.5, 0.7])}, "auroc_a has 2 values and labels 3"),
        ({"replicates_b": np.ones((4, 3))}, r"replicates_b have shape \(4, 3\)"),
        ({"replicates_a": np.ones((5, 2))}, r"replicates_a have shape \(5, 2\)"),
    ],
)
def test_unusable_input_is_refused(change, words):
    given = {
        "labels": np.array([1, 2, 4]),
        "auroc_a": np.array([0.5, 0.6, 0.7]),
        "auroc_b": np.array([0.5, 0.6, 0.7]),
        "replicates_a": np.ones((5, 3)),
        "replicates_b": np.ones((5, 3)),
        "at": 2.0,
    }
    with pytest.raises(ValueError, match=words):
        label_equivalence(**(given | change))

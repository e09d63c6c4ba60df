"""DeLong's test against its definition, a published example, duplicates and simulation."""

import numpy as np
import pytest
import scipy.stats

from cxr_jax.stats.auroc import auroc
from cxr_jax.stats.bootstrap import resampled_auroc
from cxr_jax.stats.delong import delong_interval, delong_test, delong_variance

# 43 patients with ovarian cancer of DeLong et al. (1988), section 4: albumin, total protein, K-G
# score (high is bad) and whether surgery helped; the data set `roc` of SAS/STAT's PROC LOGISTIC,
# example "Comparing Receiver Operating Characteristic Curves".
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""


def components(targets, scores):
    """Placement values V10 [m] and V01 [n] of DeLong et al. (1988), pair by pair."""
    positives, negatives = scores[targets == 1], scores[targets == 0]
    wins = 1.0 * (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    return wins.mean(axis=1), wins.mean(axis=0)


def brute_covariance(targets, models):
    v10, v01 = zip(*(components(targets, scores) for scores in models), strict=True)
    s10, s01 = np.atleast_2d(np.cov(v10)), np.atleast_2d(np.cov(v01))
    return s10 / (targets == 1).sum() + s01 / (targets == 0).sum()


def draw_images(rng, n=120, levels=12, prevalence=0.3):
    targets = (rng.random(n) < prevalence).astype(float)
    targets[:4] = 0, 0, 1, 1
    a = np.round((rng.normal(size=n) + targets) * levels) / levels
    b = np.round((a + rng.normal(size=n)) * levels) / levels
    return targets, a, b


@pytest.mark.parametrize("levels", [1, 5, 1e9])
@pytest.mark.parametrize("prevalence", [0.03, 0.3, 0.9])
def test_it_is_the_definition_pair_by_pair(levels, prevalence):
    rng = np.random.default_rng(7)
    for _ in range(20):
        targets, a, b = draw_images(rng, levels=levels, prevalence=prevalence)
        covariance = brute_covariance(targets, (a, b))
        assert delong_variance(targets, a) == pytest.approx(covariance[0, 0], rel=1e-10)
        test = delong_test(targets, a, b)
        error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        assert test.auroc_a == auroc(targets, a) and test.auroc_b == auroc(targets, b)
        u = scipy.stats.mannwhitneyu(a[targets == 1], a[targets == 0]).statistic
        pairs = (targets == 1).sum() * (targets == 0).sum()
        assert test.auroc_a == pytest.approx(u / pairs, abs=1e-12)
        assert test.standard_error == pytest.approx(error, rel=1e-7)
        assert test.z == pytest.approx(test.difference / error, rel=1e-7)
        assert test.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(test.z)))
        assert (test.low, test.high) == pytest.approx(
            (test.difference - 1.959964 * error, test.difference + 1.959964 * error), abs=1e-7
        )


def test_published_example():
    """The areas, standard errors and contrasts that SAS prints for DeLong's own patients."""
    albumin, protein, score, helped = np.array(PATIENTS.split(), float).reshape(-1, 4).T
    assert (len(helped), helped.sum()) == (43, 31)
    printed = {
        "albumin": (albumin, 0.7366, 0.0927, 0.5549, 0.9182),
        "K-G": (-score, 0.7258, 0.1028, 0.5243, 0.9273),
        "protein": (protein, 0.6478, 0.1000, 0.4518, 0.8439),
    }
    for scores, *numbers in printed.values():
        np.testing.assert_allclose(delong_interval(helped, scores), numbers, atol=5.01e-5)
    for scores, difference, error, low, high, chi_square, p_value in (
        (albumin, 0.0108, 0.0953, -0.1761, 0.1976, 0.0127, 0.9102),
        (protein, -0.0780, 0.1046, -0.2830, 0.1271, 0.5554, 0.4561),
    ):
        test = delong_test(helped, scores, -score)
        got = (test.difference, test.standard_error, test.low, test.high, test.z**2, test.p_value)
        expected = (difference, error, low, high, chi_square, p_value)
        np.testing.assert_allclose(got, expected, atol=5.01e-5)


def test_swapped_models_and_transformed_scores():
    rng = np.random.default_rng(3)
    for _ in range(10):
        targets, a, b = draw_images(rng)
        test, swapped = delong_test(targets, a, b), delong_test(targets, b, a)
        assert swapped.difference == -test.difference and swapped.p_value == test.p_value
        assert delong_test(targets, np.exp(a), 3 * b - 1) == test
        # Turned labels and scores: the same question.
        turned = delong_test(1 - targets, -a, -b)
        np.testing.assert_allclose(turned, test, rtol=1e-9)


def test_scores_that_rank_alike_have_p_one():
    rng = np.random.default_rng(3)
    targets, a, _ = draw_images(rng)
    test = delong_test(targets, a, np.exp(a))
    assert test[2:] == (0, 0, 0, 1, 0, 0)
    one_positive = np.array([0, 0, 1])
    assert delong_test(one_positive, np.arange(3), np.arange(3)).p_value == 1


def test_missing_targets_are_left_out():
    rng = np.random.default_rng(4)
    targets, a, b = draw_images(rng)
    missing = rng.random(120) < 0.2
    masked = np.where(missing, np.nan, targets)
    a_holes, patients = np.where(missing, np.nan, a), rng.integers(0, 50, 120)
    kept = ~missing
    assert delong_test(masked, a_holes, b) == delong_test(targets[kept], a[kept], b[kept])
    assert delong_variance(masked, a_holes, patients) == delong_variance(
        targets[kept], a[kept], patients[kept]
    )


def test_what_cannot_be_estimated_is_nan():
    one_class = delong_test(np.ones(4), np.arange(4), np.arange(4)[::-1])
    assert np.isnan(one_class).all()
    one_positive = delong_test(np.array([0, 0, 1]), np.arange(3), np.array([0, 3, 1]))
    assert one_positive[:3] == (1.0, 0.5, 0.5) and np.isnan(one_positive[3:]).all()
    # Right about every image against wrong about every image: no spread, but no certainty either.
    targets = np.array([0, 0, 1, 1])
    opposite = delong_test(targets, targets, 1 - targets)
    assert opposite[:4] == (1, 0, 1, 0) and np.isnan(opposite[4:]).all()
    perfect = delong_interval(targets, targets)
    assert perfect[:2] == (1, 0) and np.isnan(perfect[2:]).all()
    one_patient = delong_variance(targets, np.array([0, 2, 1, 3]), np.zeros(4))
    assert np.isnan(one_patient)


def test_interval_stays_within_its_range():
    targets, scores = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 3, 2, 4, 5])
    interval = delong_interval(targets, scores, level=0.99)
    assert interval.high == 1 and 0 < interval.low < interval.auroc


def test_every_row_its_own_patient_is_no_clustering():
    rng = np.random.default_rng(5)
    targets, a, b = draw_images(rng)
    own = np.array([f"p{i}" for i in range(120)])
    assert delong_test(targets, a, b, own) == delong_test(targets, a, b)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_images_of_known_patients_change_nothing(copies):
    rng = np.random.default_rng(6)
    targets, a, b = draw_images(rng)
    once = delong_test(targets, a, b)
    tiled = [np.tile(values, copies) for values in (targets, a, b)]
    clustered = delong_test(*tiled, np.tile(np.arange(120), copies))
    np.testing.assert_allclose(clustered, once, rtol=1e-9)
    # Taken as independent the copies would narrow the interval by the square root of their number.
    alone = delong_test(*tiled)
    assert alone.standard_error == pytest.approx(once.standard_error / np.sqrt(copies), rel=0.03)


def test_clustered_error_is_that_of_the_patient_bootstrap():
    """2,000 images of 500 patients, some with both classes; patients share half of the variance."""
    rng = np.random.default_rng(8)
    patients = rng.integers(0, 500, 2000)
    targets = (rng.random(2000) < rng.beta(0.5, 1, 500)[patients]).astype(float)
    a, b = (targets + rng.normal(size=500)[patients] + rng.normal(size=2000) for _ in range(2))
    test = delong_test(targets, a, b, patients)
    values = [resampled_auroc(targets, scores, patients, 2000)[:, 0] for scores in (a, b)]
    assert test.standard_error == pytest.approx(np.std(values[0] - values[1]), rel=0.06)
    error = np.sqrt(delong_variance(targets, a, patients))
    assert error == pytest.approx(np.std(values[0]), rel=0.06)
    assert error > 1.3 * np.sqrt(delong_variance(targets, a))


def test_p_values_are_uniform_where_models_are_equal():
    """1,000 simulated test sets; the standard error of a share of .05 is .007."""
    rng = np.random.default_rng(9)
    p_values = []
    for _ in range(1000):
        targets = rng.permutation(np.repeat([0.0, 1.0], [100, 60]))
        shared = rng.normal(size=160) + targets
        p_values.append(
            delong_test(targets, *(shared + rng.normal(size=160) for _ in range(2))).p_value
        )
    for alpha in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p_values) < alpha)
        assert share == pytest.approx(alpha, abs=3.5 * np.sqrt(alpha * (1 - alpha) / 1000))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": np.array([0, 1, 3, 0])}, "row 2: target is 3"),
        ({"scores_b": np.array([0, np.nan, 1, 2])}, "row 1: score is NaN"),
        ({"scores_a": np.arange(3)}, r"shape \(4,\) and scores \(3,\)"),
        ({"clusters": np.arange(5)}, "clusters have 5 rows and targets 4"),
    ],
)
def test_unusable_input_is_refused(change, words):
    given = {
        "targets": np.array([0, 1, 1, 0]),
        "scores_a": np.arange(4.0),
        "scores_b": np.arange(4.0),
    }
    with pytest.raises(ValueError, match=words):
        delong_test(**(given | change))

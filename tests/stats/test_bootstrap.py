"""The bootstrap against repeating rows, known standard errors and simulated coverage."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from cxr_jax.stats._ranked import rank_label, weighted_auroc
from cxr_jax.stats.auroc import auroc
from cxr_jax.stats.bootstrap import bootstrap_auroc, fold_variance, resampled_auroc
from cxr_jax.stats.clusters import MINIMUM, cluster_counts
from cxr_jax.stats.verdict import compare_auroc


def draw_images(rng, num_patients=40, num_images=150, num_labels=3, levels=30, prevalence=0.3):
    patients = np.concatenate(
        [np.arange(num_patients), rng.integers(0, num_patients, num_images - num_patients)]
    )
    targets = (rng.random((num_images, num_labels)) < prevalence).astype(float)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    scores = rng.normal(size=targets.shape) + np.nan_to_num(targets)
    return patients, targets, np.round(scores * levels) / levels


def brute_force(targets, scores, patients, counts):
    """Every resample written out row by row and given to scikit-learn; [r]."""
    values = []
    for drawn in counts.T:
        rows = np.repeat(np.arange(len(targets)), drawn[patients].astype(int))
        rows = rows[~np.isnan(targets[rows])]
        one_class = len(np.unique(targets[rows])) < 2
        values.append(np.nan if one_class else roc_auc_score(targets[rows], scores[rows]))
    return np.array(values)


def freedom(targets, patients):
    """Satterthwaite's, label by label from its rarer class's patients."""
    fewest = [
        min(len({p for p, t in zip(patients, column) if t == value}) for value in (0, 1))
        for column in targets.T
    ]
    return sum(1 / n for n in fewest) ** 2 / sum(1 / n**2 / (n - 1) for n in fewest)


def student(got, values, freedom):
    """The limits of an AUROC (on the logit scale) or of a difference, by SciPy's t."""
    values = values[~np.isnan(values)]
    t, error = scipy.stats.t(freedom), values.std(ddof=1)
    if hasattr(got, "difference"):
        return t.interval(0.95)[0] * error + got.difference, t.ppf(0.975) * error + got.difference
    odds = got.estimate / (1 - got.estimate)
    slope = error / (got.estimate * (1 - got.estimate))
    limits = odds * np.exp(np.array(t.interval(0.95)) * slope)
    return limits / (1 + limits)


@pytest.mark.parametrize(("levels", "prevalence"), [(1, 0.3), (5, 0.5), (1e9, 0.3), (5, 0.03)])
def test_weighted_auroc_equals_repeated_rows(levels, prevalence):
    rng = np.random.default_rng(3)
    patients, targets, scores = draw_images(rng, levels=levels, prevalence=prevalence, num_labels=1)
    counts = cluster_counts(40, 60, rng)
    ranked = rank_label(targets[:, 0], scores[:, 0], patients, 40)
    expected = brute_force(targets[:, 0], scores[:, 0], patients, counts)
    np.testing.assert_allclose(weighted_auroc(ranked, counts), expected, rtol=0, atol=1e-13)
    # Against our own pair counting the equality is to the last bit.
    for drawn, value in zip(counts.T, weighted_auroc(ranked, counts), strict=True):
        rows = np.repeat(np.arange(len(targets)), drawn[patients].astype(int))
        np.testing.assert_equal(value, auroc(targets[rows, 0], scores[rows, 0]))


def test_draws_are_with_replacement_and_uniform():
    counts = cluster_counts(50, 4000, np.random.default_rng(0))
    np.testing.assert_array_equal(counts.sum(axis=0), 50)
    # A multinomial count has mean 1 and variance 1 - 1/50; five standard errors allowed.
    np.testing.assert_allclose(counts.mean(axis=1), 1, atol=5 / np.sqrt(4000))
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.02)


def test_intervals_are_those_of_the_brute_force():
    rng = np.random.default_rng(5)
    patients, targets, scores = draw_images(rng)
    rivals = scores + rng.normal(size=scores.shape)
    names = np.array([f"patient {p:02d}" for p in patients])
    counts = cluster_counts(40, 200, np.random.default_rng(11))
    a, b = (
        np.stack([brute_force(targets[:, k], s[:, k], patients, counts) for k in range(3)], 1)
        for s in (scores, rivals)
    )
    alone = bootstrap_auroc(targets, scores, names, num_resamples=200, seed=11)
    paired = compare_auroc(targets, scores, rivals, names, num_resamples=200, seed=11)
    for interval, values in ((alone, a), (paired, a - b)):
        assert interval.num_resamples == 200
        columns = [*values.T, values.mean(axis=1)]
        for got, column in zip((*interval.labels, interval), columns, strict=True):
            which = range(3) if got is interval else [interval.labels.index(got)]
            expected = student(got, column, freedom(targets[:, which], patients))
            np.testing.assert_allclose([got.low, got.high], expected, atol=1e-12)
    each = [auroc(targets[:, k], scores[:, k]) for k in range(3)]
    assert [label.estimate for label in alone.labels] == each
    assert alone.estimate == pytest.approx(np.mean(each))
    assert paired.difference == pytest.approx(
        alone.estimate - bootstrap_auroc(targets, rivals, names, 2).estimate
    )


def test_replicates_are_paired_by_the_seed():
    """Each row is of the same drawn patients whatever the model, the labels or their number."""
    rng = np.random.default_rng(5)
    patients, targets, scores = draw_images(rng)
    targets[:, 1] = 0
    values = resampled_auroc(targets, scores, patients, 60, seed=3)
    assert values.shape == (60, 3) and np.isnan(values[:, 1]).all()
    counts = cluster_counts(40, 60, np.random.default_rng(3))
    expected = brute_force(targets[:, 0], scores[:, 0], patients, counts)
    np.testing.assert_allclose(values[:, 0], expected, atol=1e-12)
    alone = resampled_auroc(targets[:, 2], scores[:, 2], patients, 60, seed=3)
    np.testing.assert_array_equal(alone[:, 0], values[:, 2])
    interval = bootstrap_auroc(targets, scores, patients, 60, seed=3)
    means = values[:, [0, 2]].mean(axis=1)
    expected = student(interval, means, freedom(targets[:, [0, 2]], patients))
    np.testing.assert_allclose(interval[1:3], expected, atol=1e-12)


def test_pairs_within_folds_alone_count():
    """The estimate, its replicates (stretched) and differences, against scikit-learn by fold."""
    rng = np.random.default_rng(4)
    patients, targets, scores = draw_images(rng, num_labels=1)
    targets, scores, fold = targets[:, 0], scores[:, 0], patients % 5
    targets[fold == 4] = np.where(fold[fold == 4] == 4, 0, np.nan)  # one class: no pairs
    scores[fold == 1] += 100

    def expected(rows):
        total = weights = 0
        for own in (rows[fold[rows] == one] for one in range(5)):
            own = own[~np.isnan(targets[own])]
            weight = (targets[own] == 1).sum() * (targets[own] == 0).sum()
            total += weight and weight * roc_auc_score(targets[own], scores[own])
            weights += weight
        return total / weights

    interval = bootstrap_auroc(targets, scores, patients, 50, seed=3, fold=fold)
    assert interval.estimate == pytest.approx(expected(np.arange(len(targets))), abs=1e-12)
    counts = cluster_counts(40, 50, np.random.default_rng(3))
    rows = [np.repeat(np.arange(len(targets)), n[patients].astype(int)) for n in counts.T]
    values = np.array([expected(drawn) for drawn in rows])
    stretched = values.mean() + np.sqrt(5 / 3) * (values - values.mean())
    given = (targets, scores, patients, 50, 3, fold)
    np.testing.assert_allclose(resampled_auroc(*given)[:, 0], stretched, atol=1e-12)
    limits = student(interval, stretched, freedom(targets[:, None], patients))
    np.testing.assert_allclose(interval[1:3], limits, atol=1e-12)
    other = scores + rng.normal(size=scores.shape)
    apart = stretched - resampled_auroc(targets, other, patients, 50, 3, fold)[:, 0]
    found = compare_auroc(targets, scores, other, patients, 50, 3, folds=(fold, fold))
    assert found.standard_error == pytest.approx(apart.std(ddof=1))
    assert found.auroc_b == pytest.approx(auroc(targets, other, fold))


def test_a_cross_validation_of_nothing_varies_as_much_more_as_is_said():
    """1,500 sets without signal: the difference of class means of three folds scores a fourth."""
    rng, folds = np.random.default_rng(0), 5
    images = rng.normal(size=(1500, 2, folds, 12, 6))  # sets, classes, folds, images, features
    of_fold, given_models = [], []
    for test in range(folds):
        train = [one for one in range(folds) if (one - test) % folds > 1]
        apart = images[:, 0, train].mean(axis=(1, 2)) - images[:, 1, train].mean(axis=(1, 2))
        sick, well = np.einsum("sckif,sf->kcsi", images, apart)[test]
        won = sick[:, :, None] > well[:, None]
        of_fold.append(won.mean(axis=(1, 2)))
        placed = won.mean(axis=2), won.mean(axis=1)
        given_models.append(sum(part.var(axis=1, ddof=1) / 12 for part in placed))
    variance = np.mean(of_fold, axis=0).var()
    ratio = variance / (np.mean(given_models) / folds)
    assert ratio == pytest.approx(fold_variance(folds), rel=0.12)


def test_replicates_refuse_unusable_input_also_where_a_class_is_absent():
    with pytest.raises(ValueError, match="row 1: target is 2"):
        resampled_auroc(np.array([0, 2, 0]), np.arange(3), None)
    with pytest.raises(ValueError, match="row 0: score is NaN"):
        resampled_auroc(np.zeros(2), np.array([np.nan, 0]), None)
    with pytest.raises(ValueError, match="clusters have 3 rows and targets 2"):
        resampled_auroc(np.zeros(2), np.zeros(2), np.arange(3))


def test_one_label_of_one_column_agrees_with_one_vector():
    patients, targets, scores = draw_images(np.random.default_rng(2), num_labels=1)
    matrix = bootstrap_auroc(targets, scores, patients, 50)
    vector = bootstrap_auroc(targets[:, 0], scores[:, 0], patients, 50)
    assert matrix.labels == (vector,) and matrix[:5] == vector[:5]


def test_seed_decides():
    patients, targets, scores = draw_images(np.random.default_rng(2))
    first = bootstrap_auroc(targets, scores, patients, 100, seed=4)
    assert bootstrap_auroc(targets, scores, patients, 100, seed=4) == first
    assert bootstrap_auroc(targets, scores, patients, 100, seed=5).low != first.low


def test_result_does_not_depend_on_the_chunks(monkeypatch):
    patients, targets, scores = draw_images(np.random.default_rng(2))
    whole = bootstrap_auroc(targets, scores, patients, 100)
    monkeypatch.setattr("cxr_jax.stats.bootstrap._CHUNK_ELEMENTS", 7 * len(targets))
    assert bootstrap_auroc(targets, scores, patients, 100) == whole


def test_duplicated_rows_do_not_narrow_the_interval():
    """Five copies of every image add nothing when they are known to be one patient's."""
    rng = np.random.default_rng(6)
    targets = rng.integers(0, 2, 120).astype(float)
    scores = rng.normal(size=120) + targets
    once = bootstrap_auroc(targets, scores, np.arange(120), 1000)
    copies, copied = np.tile(targets, 5), np.tile(scores, 5)
    clustered = bootstrap_auroc(copies, copied, np.tile(np.arange(120), 5), 1000)
    unclustered = bootstrap_auroc(copies, copied, None, 1000)
    assert clustered[:3] == once[:3]
    width = clustered.high - clustered.low
    # Five times the rows taken as independent: the interval shrinks by about the square root of 5.
    assert (unclustered.high - unclustered.low) * 1.8 < width


def test_resamples_with_one_class_are_excluded_and_counted():
    targets = np.zeros((30, 2))
    targets[:5, 0] = 1  # absent from about 4 in 1,000 resamples
    targets[::2, 1] = 1
    scores = np.random.default_rng(0).normal(size=(30, 2))
    interval = bootstrap_auroc(targets, scores, None, 10_000)
    rare, common = interval.labels
    assert rare.num_resamples + rare.num_excluded == 10_000
    assert rare.num_excluded == pytest.approx(10_000 * (25 / 30) ** 30, abs=30)
    assert f"interval from {rare.num_resamples} of 10000 resamples" in rare.note
    assert common.num_excluded == 0 and common.note == ""
    assert interval.num_excluded == rare.num_excluded and interval.note == rare.note


@pytest.mark.parametrize(("positives", "negatives"), [(1, 50), (4, 50), (50, 4), (4, 4)])
def test_labels_of_too_few_patients_are_not_estimable_and_in_no_mean(positives, negatives):
    """Images do not count: those of one patient err together."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(positives + negatives), 3)
    sick = (patients < positives).astype(float)
    targets = np.stack([sick, np.tile([0.0, 1.0, 0.0], positives + negatives)], axis=1)
    scores = rng.normal(size=targets.shape)
    interval = bootstrap_auroc(targets, scores, patients, 50)
    few, enough = interval.labels
    assert np.isnan(few[:3]).all() and few.num_resamples == 0
    counts = {"positives": positives, "negatives": negatives}
    said = " and ".join(f"{name} of {n}" for name, n in counts.items() if n < MINIMUM)
    assert few.note == f"not estimable: {said} patients in the test set (5 are needed)"
    assert interval[:5] == enough[:5] and not np.isnan(interval.low)
    assert not np.isnan(auroc(targets[:, 0], scores[:, 0]))


def test_perfect_separation_has_a_lower_limit_and_says_so():
    """Wilson's, as if each of the rarer class's patients were one trial, all of them successes."""
    targets = np.repeat([0.0, 1.0], [50, 8])
    interval = bootstrap_auroc(targets, targets, None, 100)
    wilson = scipy.stats.binomtest(8, 8).proportion_ci(method="wilson")
    assert interval[:3] == pytest.approx((1, wilson.low, 1))
    assert "perfect separation" in interval.note
    upside_down = bootstrap_auroc(targets, -targets, None, 100)
    assert upside_down[:3] == pytest.approx((0, 0, 1 - wilson.low))


def test_labels_of_one_class_stay_out_of_the_macro():
    patients, targets, scores = draw_images(np.random.default_rng(9))
    targets[:, 1] = np.where(np.isnan(targets[:, 1]), np.nan, 0)
    interval = bootstrap_auroc(targets, scores, patients, 100)
    kept = bootstrap_auroc(targets[:, [0, 2]], scores[:, [0, 2]], patients, 100)
    assert interval[:5] == kept[:5]
    assert np.isnan(interval.labels[1].estimate) and np.isnan(interval.labels[1].low)
    assert interval.labels[1].num_resamples == 0
    nothing = bootstrap_auroc(targets[:, 1], scores[:, 1], patients, 100)
    assert np.isnan(nothing.estimate) and np.isnan(nothing.high)
    nothing = compare_auroc(targets[:, [1]], scores[:, [1]], scores[:, [1]], patients, 100)
    assert np.isnan(nothing.difference) and np.isnan(nothing.labels[0].difference)


def test_one_patient_is_not_estimable():
    interval = bootstrap_auroc(np.tile([0, 1], 9), np.arange(18), np.zeros(18), 50)
    assert np.isnan(interval[:3]).all() and "positives of 1" in interval.note
    assert (interval.num_resamples, interval.num_excluded) == (0, 50)


@pytest.mark.parametrize(("images_per_patient", "positives"), [(1, 40), (3, 40), (3, 5)])
def test_coverage_is_near_nominal(images_per_patient, positives):
    """In 400 simulated test sets the 95 % interval holds the true AUROC about 95 times in 100.

    Also with the fewest positive patients that are estimable. Images of one patient share half of
    their variance; scores are normal with shift 1, so the true AUROC is Phi(1 / sqrt 2). The Monte
    Carlo standard error of the coverage is 1.1 points.
    """
    rng = np.random.default_rng(12)
    truth = scipy.stats.norm.cdf(1 / np.sqrt(2))
    num_patients, num_simulations = 80, 400
    patients = np.repeat(np.arange(num_patients), images_per_patient)
    shared = np.sqrt(0.5) if images_per_patient > 1 else 0.0
    held = 0
    for simulation in range(num_simulations):
        sick = (patients < positives).astype(float)
        own = np.sqrt(1 - shared**2) * rng.normal(size=len(sick))
        scores = sick + own + shared * rng.normal(size=num_patients)[patients]
        interval = bootstrap_auroc(sick, scores, patients, num_resamples=300, seed=simulation)
        held += interval.low <= truth <= interval.high
    assert 0.92 <= held / num_simulations <= 0.98


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clusters": np.arange(5)}, "clusters have 5 rows and targets 6"),
        ({"scores": np.arange(5.0)}, r"shape \(6,\) and scores \(5,\)"),
        ({"num_resamples": 0}, "num_resamples is 0"),
        ({"targets": np.array([0, 1, 2, 0, 1, 0])}, "row 2: target is 2"),
    ],
)
def test_unusable_input_is_refused(change, words):
    given = {
        "targets": np.array([0, 1, 1, 0, 1, 0]),
        "scores": np.arange(6.0),
        "clusters": np.arange(6),
    }
    with pytest.raises(ValueError, match=words):
        bootstrap_auroc(**(given | change))

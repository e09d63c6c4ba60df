"""Rows for metrics.json and comparisons of two models."""

import json

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_jax.stats.bootstrap import bootstrap_auroc, resampled_auroc
from cxr_jax.stats.delong import delong_interval, delong_test
from cxr_jax.stats.verdict import compare_auroc
from cxr_jax.transfer.metrics import compare, metric_rows
from cxr_jax.transfer.predictions import Predictions, take_images

FIELDS = ["label", "n_pos", "n_neg", "auroc", "low", "high"]
FIELDS += ["average_precision", "delong_low", "delong_high"]


def predictions(seed=0, n=200, noise=1.0):
    rng = np.random.default_rng(0)
    targets = (rng.random((n, 3)) < 0.3).astype(float)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    patients = np.array([f"p{i}" for i in rng.integers(0, 80, n)])
    noises = np.random.default_rng(seed).normal(size=targets.shape)
    scores = np.nan_to_num(targets) + noise * noises
    images = np.array([f"i{i}" for i in range(n)])
    return Predictions(images, patients, ("effusion", "mass", "nodule"), targets, scores)


def test_rows_hold_counts_auroc_and_the_patient_interval():
    given = predictions()
    rows = metric_rows(given, num_resamples=300, seed=3)
    assert [row["label"] for row in rows] == ["effusion", "mass", "nodule", "macro"]
    interval = bootstrap_auroc(given.targets, given.scores, given.patient_id, 300, 3)
    for k, row in enumerate(rows[:3]):
        assert list(row) == FIELDS
        known = ~np.isnan(given.targets[:, k])
        assert row["n_pos"] == (given.targets[known, k] == 1).sum()
        assert row["n_pos"] + row["n_neg"] == known.sum()
        expected = roc_auc_score(given.targets[known, k], given.scores[known, k])
        assert row["auroc"] == pytest.approx(expected)
        assert (row["low"], row["high"]) == (interval.labels[k].low, interval.labels[k].high)
        assert row["low"] < row["auroc"] < row["high"]
        expected = average_precision_score(given.targets[known, k], given.scores[known, k])
        assert row["average_precision"] == pytest.approx(expected)
        expected = delong_interval(given.targets[:, k], given.scores[:, k], given.patient_id)
        assert (row["delong_low"], row["delong_high"]) == expected[2:]
    assert rows[3]["auroc"] == pytest.approx(np.mean([row["auroc"] for row in rows[:3]]))
    assert (rows[3]["low"], rows[3]["high"]) == (interval.low, interval.high)
    of_labels = [row["average_precision"] for row in rows[:3]]
    assert rows[3]["average_precision"] == pytest.approx(np.mean(of_labels))
    assert rows[3]["delong_low"] is None and rows[3]["delong_high"] is None
    assert rows[3]["n_pos"] == sum(row["n_pos"] for row in rows[:3])


def test_labels_that_cannot_be_estimated_stay_in_with_their_reason():
    given = predictions()
    given.targets[:, 1] = np.where(np.isnan(given.targets[:, 1]), np.nan, 0)
    reasons = {"hernia": "no positives among the training labels"}
    rows = metric_rows(given, 100, 0, not_scored=reasons)
    by_label = {row["label"]: row for row in rows}
    assert by_label["mass"]["auroc"] is None and by_label["mass"]["low"] is None
    assert by_label["mass"]["note"] == "not estimable: no positives in the test set"
    assert by_label["mass"]["n_pos"] == 0 and by_label["mass"]["n_neg"] > 100
    assert by_label["hernia"]["note"] == "not scored: no positives among the training labels"
    both = [by_label[name]["auroc"] for name in ("effusion", "nodule")]
    assert by_label["macro"]["auroc"] == pytest.approx(np.mean(both))
    assert by_label["macro"]["note"] == "mean over 2 of 4 labels"
    pairs = [by_label["effusion"]["n_pos"], by_label["nodule"]["n_pos"]]
    assert by_label["macro"]["n_pos"] == sum(pairs)
    assert rows[-1]["label"] == "macro"


def test_rows_are_strict_json():
    given = predictions()
    given.targets[:, 1] = np.nan
    rows = metric_rows(given, 50, not_scored={"hernia": "why"})
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[1]["note"] == "not estimable: no positives and no negatives in the test set"
    result = compare(given, predictions(1)._replace(targets=given.targets), num_resamples=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_nothing_estimable_is_said():
    given = predictions()
    rows = metric_rows(given._replace(targets=np.zeros_like(given.targets)), 50)
    assert [row["auroc"] for row in rows] == [None] * 4
    assert rows[-1]["note"] == "not estimable: no label can be estimated"


def test_few_usable_resamples_are_noted():
    given = predictions()
    rare = np.zeros_like(given.targets)
    rare[np.unique(given.patient_id, return_index=True)[1][:5]] = 1
    row = metric_rows(given._replace(targets=rare), 2000)[0]
    used = int(row["note"].split()[2])
    assert "of 2000 resamples" in row["note"] and 1950 < used < 2000  # 1 - (1 - 5/80)^80 of them


def test_few_patients_of_a_class_are_null_in_no_mean_and_named():
    given = predictions()
    given.targets[:, 1] = np.where(np.isin(given.patient_id, ["p1", "p2"]), 1, 0)
    rows = metric_rows(given, 50)
    assert all(rows[1][name] is None for name in FIELDS[3:])
    said = "not estimable: positives of 2 patients in the test set (5 are needed)"
    assert rows[1]["note"] == said and rows[3]["note"] == "mean over 2 of 3 labels"
    assert rows[3]["auroc"] == pytest.approx(np.mean([rows[0]["auroc"], rows[2]["auroc"]]))
    got = compare(given, predictions(1)._replace(targets=given.targets), num_resamples=50)
    assert [row["label"] for row in got["labels"]] == ["effusion", "nodule"]


def test_the_mean_of_one_label_has_its_delong_numbers():
    one = predictions()
    one.targets[:, 1:] = 0
    rows, other = metric_rows(one, 50), predictions(1)._replace(targets=one.targets)
    assert rows[-1]["delong_low"] == rows[0]["delong_low"] > 0
    got = compare(one, other, num_resamples=50)
    assert got["delong_p"] == got["labels"][0]["delong_p"] <= 1


def test_perfect_separation_is_noted():
    given = predictions(noise=0.0)
    assert "perfect separation" in metric_rows(given, 50)[0]["note"]


def test_comparison_is_paired_and_aligned():
    a, b = predictions(1, noise=0.7), predictions(2, noise=2.0)
    back = np.arange(200)[::-1]
    turned = b._replace(
        image_id=b.image_id[back],
        patient_id=b.patient_id[back],
        targets=b.targets[back],
        scores=b.scores[back],
    )
    got = compare(a, turned, ("ours", "theirs"), 300, 5)
    expected = compare_auroc(a.targets, a.scores, b.scores, a.patient_id, 300, 5)
    assert (got["a"], got["b"], got["verdict"]) == ("ours", "theirs", "win")
    assert (got["difference"], got["low"], got["high"]) == expected[3:6]
    assert got["auroc_a"] - got["auroc_b"] == pytest.approx(got["difference"])
    assert [row["label"] for row in got["labels"]] == ["effusion", "mass", "nodule"]
    assert got["labels"][1]["low"] == expected.labels[1].low
    test = delong_test(a.targets[:, 1], a.scores[:, 1], b.scores[:, 1], a.patient_id)
    assert got["labels"][1]["delong_p"] == test.p_value and got["delong_p"] is None
    assert compare(turned, a, num_resamples=300)["verdict"] == "loss"
    assert compare(a, predictions(7, noise=0.7), num_resamples=300)["verdict"] == "inconclusive"


def test_comparison_leaves_out_labels_of_one_class():
    a, b = predictions(1), predictions(2)
    for one in (a, b):
        one.targets[:, 2] = 0
    got = compare(a, b, num_resamples=50)
    assert [row["label"] for row in got["labels"]] == ["effusion", "mass"]
    nothing = [one._replace(targets=np.zeros_like(one.targets)) for one in (a, b)]
    assert compare(*nothing, num_resamples=50)["verdict"] == "not estimable"


def test_several_pretrainings_are_their_mean_with_the_variance_between_them():
    """Every number of one label, written out; the baseline is one pretraining."""
    three = [predictions(seed, noise=noise) for seed, noise in ((0, 0.6), (1, 1.5), (2, 4.0))]
    three[1] = take_images(three[1], np.random.default_rng(0).permutation(200))  # another order
    baseline, draws = predictions(3, noise=2.0), 4000
    found = compare(three, baseline, ("mine", "imagenet"), draws)
    rows = metric_rows(three, draws)
    label = found["labels"][1]
    known = ~np.isnan(baseline.targets[:, 1])
    each = [
        roc_auc_score(one.targets[:, 1][rows], one.scores[:, 1][rows])
        for one in three
        for rows in [~np.isnan(one.targets[:, 1])]
    ]
    other = roc_auc_score(baseline.targets[known, 1], baseline.scores[known, 1])
    assert rows[1]["auroc"] == label["auroc_a"] == pytest.approx(np.mean(each))
    assert label["difference"] == pytest.approx(np.mean(each) - other)
    order = [np.argsort(one.image_id) for one in (*three, baseline)]
    resampled = [
        resampled_auroc(one.targets[o, 1], one.scores[o, 1], one.patient_id[o], draws)[:, 0]
        for one, o in zip((*three, baseline), order)
    ]
    within = np.var(np.mean(resampled[:3], axis=0) - resampled[3], ddof=1)
    between = np.var(each, ddof=1) / 3
    assert between > within  # so that the test sees it
    patients = len(np.unique(baseline.patient_id[baseline.targets[:, 1] == 1]))
    freedom = (within + between) ** 2 / (within**2 / (patients - 1) + between**2 / 2)
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(within + between)
    assert (label["high"] - label["low"]) / 2 == pytest.approx(half, rel=0.08)
    assert label["delong_p"] is None and rows[1]["delong_low"] is None
    precision = [metric_rows(one, 10)[1]["average_precision"] for one in three]
    assert rows[1]["average_precision"] == pytest.approx(np.mean(precision))
    alone = compare(three[:1], baseline, ("mine", "imagenet"), 200)
    assert alone == compare(three[0], baseline, ("mine", "imagenet"), 200)

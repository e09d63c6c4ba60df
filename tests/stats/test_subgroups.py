"""Subgroup tables: every row is what its own images alone would give."""

import numpy as np
import pytest

from cxr_jax.stats.bootstrap import bootstrap_auroc
from cxr_jax.stats.subgroups import age_band, subgroup_auroc


def draw_images(n=400, labels=2):
    rng = np.random.default_rng(0)
    patients = np.array([f"p{i:03d}" for i in rng.integers(0, 120, n)])
    targets = (rng.random((n, labels)) < 0.3).astype(float)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    scores = rng.normal(size=targets.shape) + np.nan_to_num(targets)
    groups = rng.choice(["PA", "AP", "", "cross-table", "view 3"], n)
    return targets, scores, patients, groups


@pytest.mark.parametrize("labels", [1, 2])
def test_rows_are_those_of_the_group_alone(labels):
    targets, scores, patients, groups = draw_images(labels=labels)
    if labels == 1:
        targets, scores = targets[:, 0], scores[:, 0]
    rows = subgroup_auroc(targets, scores, patients, groups, num_resamples=50, seed=3)
    assert [row.group for row in rows] == ["AP", "PA", "cross-table", "view 3", "unknown"]
    for row, name in zip(rows, ["AP", "PA", "cross-table", "view 3", ""], strict=True):
        own = groups == name
        alone = bootstrap_auroc(targets[own], scores[own], patients[own], 50, 3)
        assert (row.auroc, row.low, row.high) == alone[:3]
        assert (row.n_pos, row.n_neg) == ((targets[own] == 1).sum(), (targets[own] == 0).sum())
        assert row.note == ""


def test_groups_may_be_numbers_and_patients_unknown():
    targets, scores, _, _ = draw_images()
    rows = subgroup_auroc(targets, scores, None, np.arange(400) % 2, num_resamples=20)
    assert [row.group for row in rows] == ["0", "1"]
    assert rows[0][3:6] == bootstrap_auroc(targets[::2], scores[::2], None, 20)[:3]


def test_every_shortcoming_is_noted():
    rng = np.random.default_rng(1)
    sizes = {
        "both": 60,
        "healthy": 10,
        "missing": 5,
        "one": 2,
        "perfect": 30,
        "rare": 40,
        "sick": 4,
    }
    groups = np.repeat(list(sizes), list(sizes.values()))
    targets, scores = rng.integers(0, 2, len(groups)).astype(float), rng.normal(size=len(groups))
    patients = np.arange(len(groups))
    targets[groups == "healthy"], targets[groups == "sick"] = 0, 1
    targets[groups == "missing"] = np.nan
    targets[groups == "one"], patients[groups == "one"] = [0, 1], 0
    scores[groups == "perfect"] = targets[groups == "perfect"]
    targets[groups == "rare"] = np.arange(40) < 5
    rows = {row.group: row for row in subgroup_auroc(targets, scores, patients, groups, 2000)}
    notes = {name: row.note for name, row in rows.items()}
    assert notes["both"] == ""
    assert notes["healthy"] == "not estimable: no positives in the group"
    assert notes["sick"] == "not estimable: no negatives in the group"
    assert notes["missing"] == "not estimable: no positives and no negatives in the group"
    few = "positives of 1 and negatives of 1 patients in the group (5 are needed)"
    assert notes["one"] == f"not estimable: {few}" and np.isnan(rows["one"].auroc)
    assert notes["perfect"].startswith("perfect separation")
    assert "resamples; in the others a class is absent" in notes["rare"]
    assert rows["healthy"][1:3] == (0, 10) and rows["sick"][1:3] == (4, 0)
    assert np.isnan(rows["healthy"][3:6]).all()


def test_labels_of_one_class_stay_out_of_the_mean_and_the_counts():
    targets, scores, patients, groups = draw_images()
    targets[groups == "AP", 1] = 0
    targets[groups == "PA", 0], targets[groups == "PA", 1] = 0, 1
    rows = {row.group: row for row in subgroup_auroc(targets, scores, patients, groups, 50)}
    own = groups == "AP"
    alone = bootstrap_auroc(targets[own][:, [0]], scores[own][:, [0]], patients[own], 50)
    assert rows["AP"].note == "mean over 1 of 2 labels" and rows["AP"][3:6] == alone[:3]
    assert rows["AP"].n_pos == (targets[own, 0] == 1).sum()
    assert rows["PA"].note == "not estimable: no label can be estimated"


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "0-17"),
        (17.9, "0-17"),
        (18, "18-39"),
        (40.0, "40-59"),
        (79.99, "60-79"),
        (80, "80+"),
        (120, "80+"),
        (float("nan"), ""),
        (-1, ""),
        (414, ""),
    ],
)
def test_age_bands(age, band):
    assert age_band(float(age)) == band


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": np.array(["a"])}, "groups have 1 rows and targets 3"),
        ({"clusters": np.arange(2)}, "clusters have 2 rows and targets 3"),
        ({"scores": np.arange(4.0)}, "scores have 4 rows and targets 3"),
        ({"targets": np.array([0, 5, 1])}, "target is 5"),
        ({"scores": np.array([0, np.nan, 1])}, "score is NaN"),
    ],
)
def test_unusable_input_is_refused(change, words):
    given = {
        "targets": np.array([0, 1, 1]),
        "scores": np.arange(3.0),
        "clusters": np.arange(3),
        "groups": np.array(["a", "b", "a"]),
    }
    with pytest.raises(ValueError, match=words):
        subgroup_auroc(**(given | change))

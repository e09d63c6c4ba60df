"""Calibration of predictions against scikit-learn and resamples written out."""

import numpy as np
import pytest
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from cxr_jax.report import calibration
from tests.fakes import benchmark as fake


def probabilities(signal=1.0, seed=0, n=80):
    given = fake.predictions(signal, seed, "phantom", n=n)
    return given._replace(score_kind="log-odds")


def test_rows_are_those_of_scikit_learn():
    given = probabilities()
    given.targets[3, 0] = np.nan
    rows = calibration.calibrate(given, ["Nodule", "Mass"], 50)
    assert [row.label for row in rows] == ["Nodule", "Mass", "macro"]
    for row, k in zip(rows, (1, 0)):
        known = ~np.isnan(given.targets[:, k])
        target = given.targets[known, k].astype(float)
        probability = 1 / (1 + np.exp(-given.scores[known, k]))
        error = brier_score_loss(target, probability)
        assert row.brier == pytest.approx(error)
        rate = target.mean()
        assert row.skill == pytest.approx(1 - error / brier_score_loss(target, 0 * target + rate))
        assert row.observed_rate == pytest.approx(rate)
        assert row.mean_probability == pytest.approx(probability.mean())
        if known.all():  # so that scikit-learn's quantiles cut where equal counts do
            observed, said = calibration_curve(target, probability, n_bins=10, strategy="quantile")
            assert row.ece == pytest.approx(np.abs(observed - said).mean())
    for field in ("brier", "skill", "ece", "mean_probability", "observed_rate"):
        mean = np.mean([getattr(row, field) for row in rows[:2]])
        assert getattr(rows[2], field) == pytest.approx(mean)


def test_limits_are_those_of_resampled_patients():
    given = probabilities()
    low_high = calibration.calibrate(given, given.label_names, 60)[-1][2:4]
    patients = np.array(list(dict.fromkeys(given.patient_id)))  # in the order of their images
    rng = np.random.default_rng(0)
    replicates = []
    for _ in range(60):
        drawn = patients[rng.integers(0, len(patients), len(patients))]
        rows = np.concatenate([np.flatnonzero(given.patient_id == one) for one in drawn])
        errors = (given.probabilities[rows] - given.targets[rows]) ** 2
        replicates.append(errors.mean(axis=0).mean())
    assert low_high == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])))


def test_cells_in_words():
    row = calibration.Calibration("Mass", 0.1, 0.05, 0.2, -0.3, 0.04, 0.5, 0.25)
    assert calibration._cells(row) == [".100\n[.050, .200]", "−.300", ".040", ".500", ".250"]
    bare = row._replace(low=float("nan"), high=float("nan"))
    assert calibration._cells(bare)[0] == ".100"


def test_picture_of_all_labels_and_of_those_that_give_probabilities(tmp_path):
    labels = [f"finding {k}" for k in range(3)]
    rare = fake.predictions(1.0, 0, "phantom", labels)
    rare = rare._replace(scores=rare.scores - 6, score_kind="log-odds")
    ranks = rare._replace(score_kind="")
    runs = [("ranks", ranks), ("rare", rare)]
    parts, found = calibration.blocks(tmp_path / "b.png", runs, labels, 10, "Shown")
    assert parts[0].text.startswith("Left out: ranks,") and list(found) == ["rare"]
    assert len(parts[1].panels) == 3 and len(parts[2].rows) == 4
    image = np.asarray(Image.open(tmp_path / "b.png").convert("L"))
    assert min(image.shape) > 600 and image.std() > 10
    with pytest.raises(ValueError, match="only rank"):
        calibration.calibrate(ranks, labels, 10)

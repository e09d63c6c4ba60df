"""Cross-validation: how patients are dealt out, and scores against scikit-learn's own loop."""

import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks import coverage
from configs import common
from cxr_jax.data.splits import LabelledSplit, patient_subset
from cxr_jax.data.tasks import Task
from cxr_jax.experiments import transfer
from cxr_jax.stats.bootstrap import bootstrap_auroc
from cxr_jax.transfer import _folds, linear
from cxr_jax.transfer._protocol import Splits, Tools
from cxr_jax.transfer.predictions import Predictions, read_parquet, write_parquet
from cxr_jax.weights.encoder import Encoder


class _Named:
    name = "drawn"


def pool(patients, targets):
    count, num_labels = targets.shape
    names = tuple(f"sign {k}" for k in range(num_labels))
    return LabelledSplit(
        source=_Named(),
        rows=np.arange(count),
        targets=targets.astype(np.float32),
        uncertain=np.zeros(targets.shape, bool),
        image_ids=tuple(f"i{row}" for row in range(count)),
        patient_ids=tuple(patients),
        label_names=names,
        task=Task({name: name for name in names}),
        other_projections=0,
    )


@pytest.fixture
def drawn():
    """200 images of 80 patients, three labels: common, rare, and one that half do not know."""
    rng = np.random.default_rng(0)
    patients = np.concatenate([np.arange(80), rng.integers(0, 80, 120)])
    targets = (rng.random((200, 3)) < (0.4, 0.08, 0.3)).astype(float)
    targets[rng.random(200) < 0.5, 2] = np.nan
    return pool([f"p{one}" for one in patients], targets)


def test_folds_part_patients_and_hold_every_class_alike(drawn):
    fold = _folds.assign(drawn, 5, seed=0)
    people = np.array(drawn.patient_ids)
    assert all(len(set(fold[people == one])) == 1 for one in set(people))
    for k in range(3):
        for value in (0, 1):
            of_class = [set(people[(fold == n) & (drawn.targets[:, k] == value)]) for n in range(5)]
            sizes = list(map(len, of_class))
            assert min(sizes) >= 1 and np.ptp(sizes) <= max(1, np.mean(sizes) / 3)
    held = [len(set(people[(fold == n) & (drawn.targets[:, 1] == 1)])) for n in range(5)]
    assert max(held) - min(held) <= 1  # the rarest class is dealt out first
    assert np.ptp(np.bincount(fold)) <= 20
    np.testing.assert_array_equal(fold, _folds.assign(drawn, 5, seed=0))
    assert (fold != _folds.assign(drawn, 5, seed=1)).any()


def test_a_fold_is_tested_the_next_is_validation_and_a_fraction_is_of_what_trains(drawn):
    fold = _folds.assign(drawn, 4, seed=0)
    tested = []
    for number in range(4):
        splits, rows = _folds.part(drawn, fold, number, fraction=0.5, seed=0)
        people = [set(split.patient_ids) for split in splits]
        assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
        assert set(fold[rows[1]]) == {(number + 1) % 4} and set(fold[rows[2]]) == {number}
        others = {p for p, f in zip(drawn.patient_ids, fold) if f not in (number, (number + 1) % 4)}
        assert len(people[0]) == round(len(others) / 2)
        left = {drawn.patient_ids[row] for row in splits.train.rest}
        assert people[0] | left == others and not people[0] & left
        tested += rows[2].tolist()
    assert sorted(tested) == list(range(200))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_out_of_fold_scores_are_those_of_scikit_learns_loop(drawn, fraction):
    rng = np.random.default_rng(1)
    known = np.nan_to_num(drawn.targets)
    features = rng.normal(size=(200, 6)) + known @ rng.normal(size=(3, 6))
    config = common.transfer()
    config.folds, config.C, config.seed, config.label_fraction = 4, (0.1,), 3, fraction
    asked = []

    def extract(name):
        asked.append(name)
        return features

    protocol = _folds.cross_validated(linear.make(config), config)
    tools = Tools(extract, print, None)
    result = protocol.run(Encoder("drawn", {}, {}, 0), Splits(drawn, drawn, drawn), tools)
    fold = _folds.assign(drawn, 4, seed=3)
    np.testing.assert_array_equal(result.fold, fold)
    assert set(asked) == {"test"} and result.score_kind == "log-odds"
    assert result.facts["num_images"] == pytest.approx(100 * fraction, abs=3)
    for k in range(3):
        found = np.zeros(200)
        for number in range(4):
            test, validation = fold == number, fold == (number + 1) % 4
            train = ~(test | validation)
            scaler = StandardScaler().fit(features[train])
            own = np.flatnonzero(train)
            ids = [drawn.patient_ids[i] for i in own]
            kept = patient_subset(ids, fraction, 3, drawn.labelled[own])
            train = np.isin(np.arange(200), own[kept])
            train &= ~np.isnan(drawn.targets[:, k])
            x = scaler.transform(features)
            probe = LogisticRegression(C=0.1, tol=1e-10, max_iter=10000)
            probe.fit(x[train], drawn.targets[train, k])
            found[test] = probe.decision_function(x[test])
        np.testing.assert_allclose(result.scores[:, k], found, rtol=1e-5, atol=1e-5)


def test_a_start_that_was_killed_keeps_its_finished_folds(drawn, tmp_path, capsys):
    features = np.random.default_rng(1).normal(size=(200, 6))
    config = common.transfer()
    config.folds, config.C = 4, (0.1,)
    probe, left = linear.make(config), [99]

    def run(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return probe.run(*given)

    def start(count, fingerprint="a"):
        left[0] = count
        once = functools.partial(transfer._once, tmp_path / "folds", fingerprint)
        tools = Tools(lambda _: features, print, None, once)
        protocol = _folds.cross_validated(probe._replace(run=run), config)
        return protocol.run(Encoder("drawn", {}, {}, 0), Splits(drawn, drawn, drawn), tools)

    with pytest.raises(KeyboardInterrupt):
        start(2)
    taken_up = start(2)
    assert left == [0] and capsys.readouterr().out.count("finished before") == 2
    (tmp_path / "folds/2.json").write_text("{")
    assert start(1).summary == taken_up.summary
    assert left == [0] and "fold 2 is made again, because" in capsys.readouterr().out
    anew = start(4, fingerprint="b")
    assert left == [0]
    np.testing.assert_array_equal(taken_up.scores, anew.scores)
    assert taken_up._replace(scores=None, fold=None) == anew._replace(scores=None, fold=None)


@pytest.mark.parametrize(("folds", "message"), [(1, "folds=1: give 3"), (2, "=2: "), (-5, "=-5: ")])
def test_numbers_of_folds_that_cannot_be(folds, message):
    config = common.transfer()
    config.folds = folds
    with pytest.raises(ValueError, match=message):
        _folds.check(config)


def test_fewer_patients_than_folds_are_refused_by_name(drawn):
    few = drawn.take(np.flatnonzero(np.isin(drawn.patient_ids, ["p1", "p2", "p3"])))
    with pytest.raises(ValueError, match=r"drawn: 3 labelled patients for config.folds=5"):
        _folds.assign(few, 5, seed=0)
    targets = np.array(drawn.targets)
    targets[:, 1] = drawn.patient_ids == np.array("p7")
    targets[:, 2] = drawn.patient_ids != np.array("p8")
    message = r"folds=5: sign 1 \(1 positive\), sign 2 \(1 negative\). Name the other labels"
    with pytest.raises(ValueError, match=message):
        _folds.assign(drawn._replace(targets=targets), 5, seed=0)


def test_predictions_keep_folds_and_refuse_a_patient_in_two(tmp_path):
    targets, scores = np.array([[0, 1], [1, 0], [0, 0]]), np.arange(6.0).reshape(3, 2)
    ids = np.array(["a", "b", "c"]), np.array(["p", "q", "p"])
    given = Predictions(*ids, ("x", "y"), targets, scores, "log-odds", np.array([2, 0, 2]))
    found = read_parquet(write_parquet(given, tmp_path / "predictions.parquet"))
    assert found.fold.tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match=r"image 'a' \(row 0\): its patient has images in two"):
        write_parquet(given._replace(fold=np.array([2, 0, 1])), tmp_path / "other.parquet")


def test_intervals_hold_the_truth_of_simulated_probes():
    found = [coverage.two_encoders(0.95, (50, 50), number)[0] for number in range(10)]
    intervals = [bootstrap_auroc(x.targets, x.scores, None, 100, fold=x.fold) for x in found]
    truths = np.array([one.truths.mean() for one in found])
    error = np.array([one.estimate for one in intervals]) - truths
    assert abs(error.mean()) < 0.02
    assert sum(i.low <= truth <= i.high for i, truth in zip(intervals, truths)) >= 9

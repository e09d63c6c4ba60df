"""Cosine-weighted votes against scikit-learn's nearest neighbours."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.transfer._protocol import Splits, Tools, build
from cxr_jax.transfer.knn import knn_scores
from cxr_jax.weights.encoder import Encoder


def sets(seed=0, n=150, m=70, d=12, num_labels=3):
    rng = np.random.default_rng(seed)
    train = rng.normal(size=(n, d)).astype(np.float32)
    targets = (train[:, :num_labels] + 0.5 * rng.normal(size=(n, num_labels)) > 0).astype(float)
    return train, targets, rng.normal(size=(m, d)).astype(np.float32)


def sklearn_scores(train, target, test, k, temperature):
    model = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    return model.fit(train.astype(np.float64), target).predict_proba(test.astype(np.float64))[:, 1]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (150, 1.0)])
def test_votes_are_those_of_scikit_learn(k, temperature):
    train, targets, test = sets()
    scores = knn_scores(train, targets, test, k=k, temperature=temperature)
    for label in range(3):
        expected = sklearn_scores(train, targets[:, label], test, k, temperature)
        np.testing.assert_allclose(scores[:, label], expected, atol=2e-5)


def test_more_neighbours_than_images_takes_all():
    train, targets, test = sets(n=9)
    expected = sklearn_scores(train, targets[:, 0], test, 9, 0.07)
    np.testing.assert_allclose(knn_scores(train, targets, test, k=500)[:, 0], expected, atol=2e-5)


def test_missing_targets_do_not_vote():
    train, targets, test = sets()
    targets[::3, 1] = np.nan
    targets[:, 2] = np.nan
    scores = knn_scores(train, targets, test)
    has = ~np.isnan(targets[:, 1])
    expected = sklearn_scores(train[has], targets[has, 1], test, 20, 0.07)
    np.testing.assert_allclose(scores[:, 1], expected, atol=2e-5)
    assert np.isnan(scores[:, 2]).all()
    np.testing.assert_allclose(scores[:, 0], knn_scores(train, targets[:, :1], test)[:, 0])


def test_batches_change_nothing():
    train, targets, test = sets()
    whole = knn_scores(train, targets, test, batch_size=1000)
    np.testing.assert_allclose(knn_scores(train, targets, test, batch_size=16), whole, atol=1e-6)


def test_length_of_a_feature_does_not_matter():
    train, targets, test = sets()
    scaled = train * np.geomspace(1e-3, 1e3, len(train), dtype=np.float32)[:, None]
    np.testing.assert_allclose(
        knn_scores(scaled, targets, 7 * test), knn_scores(train, targets, test), atol=1e-5
    )


def test_zero_features_give_the_mean_of_their_neighbours():
    train, targets, test = sets()
    scores = knn_scores(train, targets, np.zeros_like(test), k=len(train))
    np.testing.assert_allclose(scores, np.tile(targets.mean(axis=0), (len(test), 1)), atol=1e-6)


@pytest.mark.parametrize("change", [{"k": 0}, {"batch_size": 0}])
def test_counts_must_be_positive(change):
    with pytest.raises(ValueError, match="at least 1"):
        knn_scores(*sets(), **change)


def test_protocol_chooses_each_labels_neighbours_on_validation():
    train, targets, test = sets()
    checked, checked_targets, _ = sets(seed=1, n=90)
    features = {"train": train, "validation": checked, "test": test}
    splits = Splits(*(labelled(rows) for rows in (targets, checked_targets, np.zeros((70, 3)))))
    config = {"knn": {"k": (3, 40), "temperature": (0.07, 1.0)}}
    result = run(config, splits, features)
    for k in range(3):
        found = {
            (near, warm): roc_auc_score(
                checked_targets[:, k], sklearn_scores(train, targets[:, k], checked, near, warm)
            )
            for near in (40, 3)
            for warm in (1.0, 0.07)
        }
        near, warm = max(found, key=found.get)
        assert result.facts["chosen"][f"label {k}"] == {"k": near, "temperature": warm}
        expected = sklearn_scores(train, targets[:, k], test, near, warm)
        np.testing.assert_allclose(result.scores[:, k], expected, atol=2e-5)


def test_protocol_names_labels_with_one_class():
    train, targets, test = sets()
    features = {"train": train, "validation": train, "test": test}
    targets[:, 1] = 0
    splits = Splits(*(labelled(rows) for rows in (targets, targets, np.zeros((70, 3)))))
    result = run({"knn": {"k": 5, "temperature": 0.1}}, splits, features)
    assert result.scored.tolist() == [True, False, True]
    assert result.not_scored.keys() == {1} and np.isnan(result.scores[:, 1]).all()
    expected = knn_scores(train, targets[:, [0, 2]], test, 5, 0.1)
    np.testing.assert_array_equal(result.scores[:, [0, 2]], expected)


def labelled(targets):
    names = tuple(f"label {k}" for k in range(targets.shape[1]))
    return LabelledSplit(
        None, None, targets, None, (), (), names, Task(dict.fromkeys(names, "")), 0
    )


def run(config, splits, features):
    tools = Tools(features.__getitem__, print, None)
    encoder = Encoder("any", {}, {}, 32)
    return build({"protocol": "knn"} | config).run(encoder, splits, tools)


@pytest.mark.parametrize(
    ("knn", "words"),
    [
        ({"k": (), "temperature": 0.1}, r"config.knn.k is \(\): give positive numbers"),
        ({"k": (2.5,), "temperature": 0.1}, r"config.knn.k is \[2.5\]: give whole numbers"),
        ({"k": 5, "temperature": (0.1, 0)}, "config.knn.temperature is"),
        ({"k": 5, "temperature": "hot"}, "config.knn.temperature is 'hot'"),
    ],
)
def test_bad_fields_are_named(knn, words):
    with pytest.raises(ValueError, match=words):
        build({"protocol": "knn", "knn": knn})


def test_votes_for_exclusive_classes_sum_to_one():
    train, targets, test = sets()
    classes = np.eye(3)[(targets * [1, 2, 3]).argmax(axis=1)]
    classes[::5] = np.nan  # images without class do not vote
    scores = knn_scores(train, classes, test)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)

"""Cosine-weighted votes against scikit-learn's nearest neighbours."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cxr_jax.evaluate.knn import knn_scores


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

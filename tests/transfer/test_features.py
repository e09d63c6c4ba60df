"""Neighbours, principal components and t-SNE of features."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from cxr_jax.transfer._features import nearest, principal, tsne


def test_neighbours_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(50, 8)), rng.normal(size=(7, 8))
    rows, cosine = nearest(train, test, 5)
    distance, expected = NearestNeighbors(metric="cosine").fit(train).kneighbors(test, 5)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(cosine, 1 - distance, atol=1e-5)


def test_few_images_ties_and_an_empty_feature():
    train = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    rows, cosine = nearest(train, np.array([[3.0, 0.0]]), 9)
    assert rows.tolist() == [[0, 1, 2]] and cosine.tolist() == [[1.0, 1.0, 0.0]]
    with pytest.raises(ValueError, match="k is 0: at least 1 is needed"):
        nearest(train, train, 0)


def test_principal_components_keep_distances_and_are_few():
    rng = np.random.default_rng(0)
    features = rng.normal(5, 3, (40, 6)).astype(np.float32)
    components = principal(features)
    assert components.shape == (40, 6) and np.isclose(components[:, 0].std(), 1)
    ratio = pdist(features) / pdist(components)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert principal(rng.normal(size=(70, 90))).shape == (70, 50)


def test_images_of_two_kinds_stand_apart_and_equal_runs_agree():
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    components = principal(rng.normal(size=(60, 20)) + 6 * kind[:, None])
    points = tsne(components)
    near = KNeighborsClassifier(4).fit(points, kind)
    assert points.shape == (60, 2) and near.score(points, kind) == 1
    np.testing.assert_array_equal(tsne(components), points)


def test_what_cannot_be_drawn_is_not():
    rng = np.random.default_rng(0)
    assert tsne(principal(rng.normal(size=(9, 4)))) is None
    equal = principal(np.full((30, 4), 0.1))
    assert not equal.any() and tsne(equal) is None

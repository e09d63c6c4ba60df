import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from cxr_jax.transfer._neighbours import nearest


def test_as_scikit_learn_finds_them():
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

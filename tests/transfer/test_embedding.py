import numpy as np
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier

from cxr_jax.transfer._embedding import principal, tsne


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

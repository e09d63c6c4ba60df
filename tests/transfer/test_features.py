"""Neighbours, components and t-SNE of features; Grad-CAM: its closed form, its sum, its place."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from cxr_jax.models import build, resnet
from cxr_jax.transfer._features import contributions, nearest, principal, tsne
from cxr_jax.transfer._protocol import Head
from cxr_jax.transfer.linear import linear_probe
from cxr_jax.weights.encoder import features, random_encoder
from tests.fakes.bars import MICRO, micro_encoder


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


@pytest.fixture(autouse=True)
def _micro(monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, "micro", MICRO)


def _images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 1), np.uint8)


def _head(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(6, 3))
    kernel[:, 1] = np.nan
    return Head(micro_encoder(), kernel, rng.normal(size=3))


def _features(head, images):
    return np.asarray(features(head.encoder)(images / np.float32(255)), np.float64)


def _probe_head(mean, std, seed=0):
    """A head as a linear probe leaves it: with the standardisation folded into kernel and bias."""
    weights = np.random.default_rng(seed).normal(size=(6, 3))
    kernel = weights / std[:, None]
    return Head(micro_encoder(), kernel, 0.3 - mean @ kernel)


@pytest.mark.parametrize("label", [0, 2])
def test_its_gradient_equals_the_closed_form_of_mean_pooling(label):
    head, originals = _head(), _images(3)
    average = np.random.default_rng(1).normal(size=6)
    model = build(head.encoder.model)
    images = jnp.asarray(originals, jnp.float32) / 255
    maps = np.asarray(model.apply(head.encoder.variables, images, False, method="maps"))
    expected = (maps - average) @ head.kernel[:, label] / (16 * 16)
    found = contributions(head, originals, label, average)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_vit_gives_a_map_of_its_patches():
    encoder = random_encoder(
        {"name": "vit", "variant": "64x2", "patch": 8, "image_size": 32}, 32, 0
    )
    images = _images(2)
    head = Head(encoder, np.random.default_rng(0).normal(size=(64, 1)), np.zeros(1))
    read = _features(head, images)
    found = contributions(head, images, 0, read.mean(axis=0))
    assert found.shape == (2, 4, 4)
    expected = ((read - read.mean(axis=0)) @ head.kernel)[:, 0]
    np.testing.assert_allclose(found.sum(axis=(1, 2)), expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(found).all() and (found.std(axis=(1, 2)) > 1e-6).all()


def test_parts_add_up_to_the_score_less_that_of_the_average_training_image():
    images, train = _images(4), _images(30, seed=1)
    read = _features(_head(), train)
    mean, std = read.mean(axis=0), read.std(axis=0)
    head = _probe_head(mean, std)
    logits, of_train = (_features(head, some) @ head.kernel + head.bias for some in (images, train))
    for label in range(3):
        added = contributions(head, images, label, mean).sum(axis=(1, 2))
        expected = logits[:, label] - of_train[:, label].mean()
        np.testing.assert_allclose(added, expected, rtol=0, atol=1e-5 * np.ptp(of_train[:, label]))


@pytest.mark.parametrize("seed", range(5))
def test_a_image_that_scores_above_the_average_has_heat_enough_to_account_for_it(seed):
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.2, 1, (20, 1, 1, 1))  # images apart in their features
    images = (light * _images(20, seed)).astype(np.uint8)
    read = _features(_head(), images)
    mean = read.mean(axis=0)
    head = _probe_head(mean, read.std(axis=0), seed)
    for label in range(3):
        above = (read - mean) @ head.kernel[:, label]
        heat = np.maximum(contributions(head, images, label, mean), 0)
        assert (heat.sum(axis=(1, 2)) >= above - 1e-4 * np.abs(above).max()).all()
        assert heat[above.argmax()].max() > 0 < above.max()
        shifted = Head(head.encoder, head.kernel, head.bias + 100)
        found = contributions(shifted, images, label, mean)
        np.testing.assert_array_equal(np.maximum(found, 0), heat)


def test_heat_lies_where_the_label_is():
    """Positive images hold one bright square; a probe of untrained features learns it."""
    rng = np.random.default_rng(0)
    encoder, apply = micro_encoder(), features(micro_encoder())
    images = rng.integers(60, 120, (240, 32, 32, 1)).astype(np.uint8)
    target, place = np.arange(240) % 2, 2 * rng.integers(2, 10, (240, 2))
    inside = np.zeros((240, 16, 16), bool)
    for image, (top, left), cells in zip(images[1::2], place[1::2], inside[1::2]):
        image[top : top + 8, left : left + 8] += 80
        cells[top // 2 : top // 2 + 4, left // 2 : left // 2 + 4] = True
    read, targets = np.asarray(apply(images / np.float32(255))), target[:, None].astype(np.float32)
    parts = [(read[rows], targets[rows]) for rows in (slice(0, 120), slice(120, 180))]
    probe = linear_probe(*parts, read[180:], (1.0,), ("square",))
    assert probe.validation_auroc.max() > 0.9
    average = read[:120].mean(axis=0)
    found = contributions(Head(encoder, probe.kernel, probe.bias), images, 0, average)
    heat = np.maximum(found[181::2], 0)
    inside = inside[181::2]
    on = np.array([image[cells].mean() for image, cells in zip(heat, inside)])
    off = np.array([image[~cells].mean() for image, cells in zip(heat, inside)])
    assert heat.min() >= 0 and (on > 1.5 * off).mean() > 0.9


def test_a_label_without_a_score_has_no_heat():
    with pytest.raises(ValueError, match="label 1 was not scored"):
        contributions(_head(), _images(1), 1, np.zeros(6))

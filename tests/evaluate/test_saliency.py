"""Grad-CAM: equal to its closed form, adding up to the score, and lying on what was learnt."""

import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.evaluate.probe import linear_probe
from cxr_jax.evaluate.protocol import Head
from cxr_jax.evaluate.saliency import contributions, grad_cam
from cxr_jax.models import build, resnet
from cxr_jax.weights.encoder import features
from tests.fakes.bars import MICRO, micro_encoder


@pytest.fixture(autouse=True)
def _micro(monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, "micro", MICRO)


def _films(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 1), np.uint8)


def _head(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(6, 3))
    kernel[:, 1] = np.nan
    return Head(micro_encoder(), kernel, rng.normal(size=3))


@pytest.mark.parametrize("label", [0, 2])
def test_its_gradient_equals_the_closed_form_of_mean_pooling(label):
    head, films = _head(), _films(3)
    model = build(head.encoder.model)
    images = jnp.asarray(films, jnp.float32) / 255
    maps = np.asarray(model.apply(head.encoder.variables, images, False, method="maps"))
    expected = maps @ head.kernel[:, label] / (16 * 16)
    np.testing.assert_allclose(contributions(head, films, label), expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        grad_cam(head, films, label), np.maximum(expected, 0), rtol=1e-3, atol=1e-6
    )


def test_parts_and_bias_add_up_to_the_score():
    head, films = _head(), _films(4)
    logits = np.asarray(features(head.encoder)(films / np.float32(255))) @ head.kernel + head.bias
    added = contributions(head, films, 2).sum(axis=(1, 2)) + head.bias[2]
    np.testing.assert_allclose(added, logits[:, 2], rtol=1e-4, atol=1e-4)


def test_heat_lies_where_the_label_is():
    """Positive films hold one bright square; a probe of untrained features learns it."""
    rng = np.random.default_rng(0)
    encoder, apply = micro_encoder(), features(micro_encoder())
    films = rng.integers(60, 120, (240, 32, 32, 1)).astype(np.uint8)
    target, place = np.arange(240) % 2, 2 * rng.integers(2, 10, (240, 2))
    inside = np.zeros((240, 16, 16), bool)
    for film, (top, left), cells in zip(films[1::2], place[1::2], inside[1::2]):
        film[top : top + 8, left : left + 8] += 80
        cells[top // 2 : top // 2 + 4, left // 2 : left // 2 + 4] = True
    read, targets = np.asarray(apply(films / np.float32(255))), target[:, None].astype(np.float32)
    parts = [(read[rows], targets[rows]) for rows in (slice(0, 120), slice(120, 180))]
    probe = linear_probe(*parts, read[180:], (1.0,), ("square",))
    assert probe.validation_auroc.max() > 0.9
    heat = grad_cam(Head(encoder, probe.kernel, probe.bias), films, 0)[181::2]
    inside = inside[181::2]
    on = np.array([film[cells].mean() for film, cells in zip(heat, inside)])
    off = np.array([film[~cells].mean() for film, cells in zip(heat, inside)])
    assert heat.min() >= 0 and (on > 1.5 * off).mean() > 0.9


def test_a_label_without_a_score_has_no_heat():
    with pytest.raises(ValueError, match="label 1 was not scored"):
        grad_cam(_head(), _films(1), 1)

"""BYOL's loss and target decay as functions: reference values and numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.objectives.byol import byol_loss, tau


def embeddings(seed, n=6, d=5):
    return np.random.default_rng(seed).normal(size=(n, d))


def symmetric(p_a, t_b, p_b, t_a):
    return byol_loss(p_a, t_b) + byol_loss(p_b, t_a)


def test_reference_values_of_the_symmetric_loss():
    x, y = jnp.eye(6)[:3], jnp.eye(6)[3:]
    np.testing.assert_allclose(symmetric(x, 5 * x, 2 * y, y), 0, atol=1e-6)
    np.testing.assert_allclose(symmetric(x, y, 2 * y, x), 4, rtol=1e-6)
    np.testing.assert_allclose(symmetric(x, -x, y, -3 * y), 8, rtol=1e-6)


def numpy_loss(prediction, target):
    norms = np.linalg.norm(prediction, axis=1) * np.linalg.norm(target, axis=1)
    return np.mean(2 - 2 * (prediction * target).sum(axis=1) / norms)


def test_value_and_gradient_are_numpys():
    p, t = embeddings(0), embeddings(1)
    value, gradient = jax.value_and_grad(byol_loss)(
        jnp.asarray(p, jnp.float32), jnp.asarray(t, jnp.float32)
    )
    np.testing.assert_allclose(value, numpy_loss(p, t), rtol=1e-6)
    expected = np.zeros_like(p)
    for index in np.ndindex(p.shape):
        up, down = p.copy(), p.copy()
        up[index] += 1e-5
        down[index] -= 1e-5
        expected[index] = (numpy_loss(up, t) - numpy_loss(down, t)) / 2e-5
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.05


def test_no_gradient_into_the_target():
    p, t = (jnp.asarray(embeddings(seed), jnp.float32) for seed in (0, 1))
    np.testing.assert_array_equal(jax.grad(byol_loss, argnums=1)(p, t), 0)


@pytest.mark.parametrize("step, expected", [(0, 0.996), (500, 0.998), (1000, 1.0), (1200, 1.0)])
def test_tau_runs_from_base_to_one(step, expected):
    np.testing.assert_allclose(tau(step, 1000, 0.996), expected, rtol=1e-7)
    np.testing.assert_allclose(tau(jnp.int32(step), 1000, 0.996), expected, rtol=1e-7)

"""SimCLR's loss as a function of embeddings: reference values and a float64 loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.objectives.simclr import contrastive_accuracy, nt_xent


def pairs(n=5, d=4, seed=0):
    rng = np.random.default_rng(seed)
    z_a = rng.normal(size=(n, d))
    return z_a, z_a + rng.normal(size=(n, d))


def loop_nt_xent(z_a, z_b, temperature):
    """Equation 1 of arXiv:2002.05709, anchor by anchor, float64."""
    z = np.concatenate([z_a, z_b]).astype(np.float64)
    n = len(z_a)
    total = 0.0
    for i in range(2 * n):
        similarity = {
            j: z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])
            for j in range(2 * n)
            if j != i
        }
        terms = {j: np.exp(s / temperature) for j, s in similarity.items()}
        total -= np.log(terms[(i + n) % (2 * n)] / sum(terms.values()))
    return total / (2 * n)


def difference_gradient(function, x, step=1e-5):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("n", [2, 4, 33])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_all_vectors_equal(n, temperature):
    z = jnp.tile(jnp.array([[3.0, -4.0, 1.0]]), (n, 1))
    np.testing.assert_allclose(nt_xent(z, 2 * z, temperature), np.log(2 * n - 1), rtol=1e-6)


def test_orthonormal_pairs():
    loss = nt_xent(jnp.eye(4), jnp.eye(4), 0.1)
    np.testing.assert_allclose(loss, 2.7236e-4, rtol=2e-5)
    np.testing.assert_allclose(loss, np.log1p(6 * np.exp(-10)), rtol=1e-6)


def test_no_negatives_is_zero_with_a_finite_gradient():
    z_a, z_b = (jnp.asarray(z, jnp.float32) for z in pairs(n=1))
    loss, gradient = jax.value_and_grad(nt_xent)(z_a, z_b, 0.1)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_value_is_that_of_a_float64_loop(temperature):
    z_a, z_b = pairs()
    loss = nt_xent(jnp.asarray(z_a, jnp.float32), jnp.asarray(z_b, jnp.float32), temperature)
    np.testing.assert_allclose(loss, loop_nt_xent(z_a, z_b, temperature), rtol=2e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_gradient_is_that_of_a_float64_loop(temperature):
    z_a, z_b = pairs()
    float32 = jnp.asarray(z_a, jnp.float32), jnp.asarray(z_b, jnp.float32)
    grad_a, grad_b = jax.grad(nt_xent, argnums=(0, 1))(*float32, temperature)
    expected_a = difference_gradient(lambda z: loop_nt_xent(z, z_b, temperature), z_a)
    expected_b = difference_gradient(lambda z: loop_nt_xent(z_a, z, temperature), z_b)
    np.testing.assert_allclose(grad_a, expected_a, atol=3e-6)
    np.testing.assert_allclose(grad_b, expected_b, atol=3e-6)
    assert np.abs(expected_a).max() > 0.1


def test_symmetries():
    z_a, z_b = (jnp.asarray(z, jnp.float32) for z in pairs(n=16, d=8))
    loss = nt_xent(z_a, z_b, 0.1)
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_allclose(nt_xent(z_a[order], z_b[order], 0.1), loss, rtol=1e-6)
    np.testing.assert_allclose(nt_xent(z_b, z_a, 0.1), loss, rtol=1e-6)
    lengths = jnp.arange(1.0, 17.0)[:, None]
    np.testing.assert_allclose(nt_xent(z_a * lengths, z_b / lengths, 0.1), loss, rtol=1e-5)
    assert abs(float(nt_xent(z_a[order], z_b, 0.1) - loss)) > 0.1


def test_bfloat16_embeddings_give_a_float32_loss():
    z_a, z_b = (jnp.asarray(z, jnp.bfloat16) for z in pairs(n=16, d=8))
    loss = nt_xent(z_a, z_b, 0.1)
    assert loss.dtype == jnp.float32
    expected = loop_nt_xent(np.asarray(z_a, np.float64), np.asarray(z_b, np.float64), 0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_contrastive_accuracy_counts_nearest_neighbours():
    z_a, z_b = pairs(n=20, d=3)
    z = np.concatenate([z_a, z_b])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cosines = z @ z.T - 10 * np.eye(40)
    expected = np.mean(cosines.argmax(axis=1) == (np.arange(40) + 20) % 40)
    assert 0 < expected < 1
    accuracy = contrastive_accuracy(jnp.asarray(z_a, jnp.float32), jnp.asarray(z_b, jnp.float32))
    np.testing.assert_allclose(accuracy, expected, rtol=1e-6)


def test_collapsed_embeddings_have_no_contrastive_accuracy():
    assert contrastive_accuracy(jnp.ones((6, 3)), jnp.ones((6, 3))) == 0

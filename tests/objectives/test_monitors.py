"""The collapse monitors on embeddings whose spread and rank are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.objectives._networks import (
    assignment_metrics,
    collapse_metrics,
    effective_rank,
    embedding_std,
)


def gaussian(n, d):
    return jax.random.normal(jax.random.PRNGKey(0), (n, d))


def test_isotropic_embeddings_are_spread_over_all_dimensions():
    z = gaussian(20_000, 16)
    np.testing.assert_allclose(embedding_std(z), 1, atol=0.01)
    np.testing.assert_allclose(effective_rank(z), 16, atol=0.05)


def test_fewer_images_than_dimensions():
    # n isotropic points in many dimensions span n - 1 directions about equally.
    np.testing.assert_allclose(effective_rank(gaussian(10, 5000)), 9, atol=0.1)


@pytest.mark.parametrize("row", [[0.3, -0.7, 0.1], [1e-4, 2e-4, 0.0], [0.0, 0.0, 0.0]])
def test_collapsed_embeddings(row):
    z = jnp.tile(jnp.array([row]), (64, 1))
    np.testing.assert_allclose(embedding_std(z), 0, atol=1e-6)
    np.testing.assert_allclose(effective_rank(z), 1, atol=1e-6)


def test_dimensional_collapse_is_seen_by_the_rank():
    z = gaussian(5000, 3) @ np.linalg.qr(np.random.default_rng(0).normal(size=(32, 3)))[0].T
    np.testing.assert_allclose(effective_rank(z), 3, atol=0.05)


def test_rank_is_the_participation_ratio_of_numpys_covariance():
    z = np.random.default_rng(1).normal(size=(40, 6)) * [5, 4, 3, 2, 1, 0.5] + 7
    eigenvalues = np.linalg.eigvalsh(np.cov(z.T))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    np.testing.assert_allclose(effective_rank(jnp.asarray(z, jnp.float32)), expected, rtol=1e-4)


def test_metrics_ignore_the_lengths_of_embeddings():
    z = gaussian(500, 8)
    stretched = z * jnp.linspace(0.1, 50, 500)[:, None]
    for name, value in collapse_metrics(z).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(collapse_metrics(stretched)[name], value, rtol=1e-4)


def test_assignments_that_collapsed_to_one_prototype_or_to_all():
    one = assignment_metrics(jnp.tile(jnp.eye(5)[2], (6, 2, 1)))
    np.testing.assert_allclose([one["target_entropy"], one["prototypes_used"]], [0, 1], atol=1e-6)
    uniform = assignment_metrics(jnp.full((6, 2, 5), 0.2))
    np.testing.assert_allclose(uniform["target_entropy"], np.log(5), rtol=1e-6)
    spread = assignment_metrics(jnp.eye(5))
    np.testing.assert_allclose(
        [spread["target_entropy"], spread["prototypes_used"]], [0, 5], atol=1e-5
    )

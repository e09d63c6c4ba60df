"""Values that any right implementation of the losses gives, and what they must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.objectives import barlow, dino, moco, simsiam, vicreg

CONSTANT = jnp.tile(jnp.array([[3.0, -4.0, 1.0]]), (16, 1))


def hadamard():
    """Eight images whose four dimensions are standardised and independent."""
    signs = np.array([[1, 1], [1, -1]])
    return jnp.asarray(np.kron(np.kron(signs, signs), signs)[:, 1:5], jnp.float32)


def test_simsiam_is_minus_one_where_directions_agree():
    x, y = jnp.eye(6)[:3], jnp.eye(6)[3:]
    np.testing.assert_allclose(simsiam.negative_cosine(5 * x, 2 * x), -1, rtol=1e-6)
    np.testing.assert_allclose(simsiam.negative_cosine(x, y), 0, atol=1e-6)
    np.testing.assert_allclose(simsiam.negative_cosine(x, -x), 1, rtol=1e-6)
    gradient = jax.grad(simsiam.negative_cosine, argnums=(0, 1))(x + 0.1, x - y)
    assert np.any(gradient[0]) and not np.any(gradient[1])


def test_barlow_of_equal_independent_and_constant_dimensions():
    z = hadamard()
    np.testing.assert_allclose(barlow.barlow_loss(3 * z + 1, z, 0.0051), 0, atol=1e-6)
    # Opposite views: every c_ii is -1. A constant batch: every c_ii is 0.
    np.testing.assert_allclose(barlow.barlow_loss(z, -z, 0.0051), 4 * 4, rtol=1e-4)
    np.testing.assert_allclose(barlow.barlow_loss(CONSTANT, CONSTANT, 0.0051), 3, rtol=1e-6)
    # All four dimensions the same: 12 correlations of one outside the diagonal.
    same = jnp.tile(z[:, :1], (1, 4))
    np.testing.assert_allclose(barlow.barlow_loss(same, same, 0.5), 6, rtol=1e-4)


def test_vicreg_of_a_constant_batch_is_24_75():
    terms = vicreg.vicreg_terms(CONSTANT, CONSTANT)
    assert terms["invariance"] == terms["covariance"] == 0
    value = 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    np.testing.assert_allclose(value, 24.75, rtol=1e-6)
    slope = jax.grad(lambda z: vicreg.vicreg_terms(z, CONSTANT)["variance"])(CONSTANT)
    assert np.all(np.isfinite(slope))


def test_vicreg_of_dimensions_with_enough_variance_of_their_own_is_zero():
    terms = vicreg.vicreg_terms(2 * hadamard(), 2 * hadamard())
    assert all(abs(term) < 1e-6 for term in terms.values())
    shifted = vicreg.vicreg_terms(2 * hadamard(), 2 * hadamard() + 3)
    np.testing.assert_allclose(shifted["invariance"], 9, rtol=1e-6)


def moco_loss(query, key, queue, temperature=0.2):
    return moco.info_nce(*moco.similarities(query, key, queue), temperature)


def test_moco_with_an_orthogonal_queue_of_65536():
    axes = jnp.eye(4)
    queue = jnp.tile(axes[3:], (65536, 1))
    np.testing.assert_allclose(moco_loss(3 * axes[:3], axes[:3], queue), 6.0926, atol=5e-5)
    np.testing.assert_allclose(
        moco_loss(CONSTANT, 2 * CONSTANT, CONSTANT / jnp.linalg.norm(CONSTANT[0])),
        np.log(len(CONSTANT) + 1),
        rtol=1e-5,
    )


def test_dino_of_a_uniform_student_is_log_of_the_prototypes():
    student, teacher = jnp.zeros((2, 4, 65536)), jnp.zeros((2, 2, 65536)).at[:, :, 5].set(3.0)
    value = dino.dino_loss(student, teacher, jnp.zeros(65536), 0.1, 0.04)
    np.testing.assert_allclose(value, np.log(65536), rtol=1e-6)


def test_dino_pairs_no_view_with_itself():
    # The teacher's views have prototypes 0 and 1. The student's first view says 1, its second 0.
    one = jnp.eye(3)
    student, teacher = one[jnp.array([[1, 0]])], one[jnp.array([[0, 1]])]
    assert dino.dino_loss(student, teacher, jnp.zeros(3), 0.05, 0.05) < 1e-6
    assert dino.dino_loss(student[:, ::-1], teacher, jnp.zeros(3), 0.05, 0.05) > 10


@pytest.mark.parametrize("step, expected", [(0, 0.04), (15, 0.055), (30, 0.07), (100, 0.07)])
def test_dino_teacher_temperature_rises_during_its_warm_up(step, expected):
    value = dino.teacher_temperature(step, 100, (0.04, 0.07), 0.3)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_moco_queue_is_written_in_order_and_round():
    queue, place = jnp.zeros((5, 1)), jnp.int32(0)
    for start in (1, 4, 7):
        queue, place = moco.enqueue(queue, place, jnp.arange(start, start + 3.0)[:, None])
    # 1 to 9 into five places: 6 wrapped to the first, 9 stands where 4 stood.
    np.testing.assert_array_equal(queue[:, 0], [6, 7, 8, 9, 5])
    assert place == 4

"""Convolution and batch norm against Flax's own, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cxr_jax.models import _layers
from cxr_jax.training import xla


def _images(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape) * 3 + 1


def _value_and_gradients(net, variables, x):
    """Outputs, new statistics, and gradients of a curved function of the outputs."""

    def loss(params, x):
        y, new = net.apply(variables | {"params": params}, x, mutable=["batch_stats"])
        weights = jnp.linspace(-1, 1, y.size).reshape(y.shape)
        return jnp.sum(jnp.sin(y) * weights), (y, new)

    return jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=xla.options()
    )(variables["params"], x)


@pytest.mark.parametrize(
    ("kernel", "stride", "size"),
    [(3, 1, (6, 5)), (3, 2, (8, 7)), (1, 2, (7, 6)), (7, 4, (16, 19)), (1, 1, (3, 3))],
)
def test_convolution_and_its_gradients_are_flaxs(kernel, stride, size):
    x = _images(2, *size, 3)
    ours = _layers.Conv(4, kernel, stride)
    pad = kernel // 2
    flax = nn.Conv(4, (kernel, kernel), stride, padding=((pad, pad), (pad, pad)), use_bias=False)
    variables = ours.init(jax.random.key(1), x)
    expected = _value_and_gradients(flax, variables, x)
    got = _value_and_gradients(ours, variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), got, expected)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (7, 3)])
def test_batch_norm_its_statistics_and_gradients_are_flaxs(shape, use_bias):
    x = _images(*shape)
    ours = _layers.BatchNorm(False, use_bias=use_bias)
    flax = nn.BatchNorm(False, momentum=0.9, epsilon=1e-5, use_bias=use_bias)
    variables = flax.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(
        jnp.shape, variables
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape)), variables)
    expected = _value_and_gradients(flax, variables, x)
    got = _value_and_gradients(ours, variables, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)
    ours, flax = (net.clone(use_running_average=True) for net in (ours, flax))
    np.testing.assert_allclose(ours.apply(variables, x), flax.apply(variables, x), rtol=1e-5)


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    x = _images(64, 3).astype(jnp.bfloat16)
    net = _layers.BatchNorm(False, dtype="bfloat16")
    variables = net.init(jax.random.key(0), x)
    (_, (y, new)), (by_params, by_x) = _value_and_gradients(net, variables, x)
    assert y.dtype == by_x.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((new, by_params))} == {np.dtype("float32")}
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * exact.var(0), rtol=1e-5)


def test_batch_norm_of_a_constant_channel_is_its_bias_with_a_finite_gradient():
    x = jnp.full((8, 2), 0.1)
    net = _layers.BatchNorm(False)
    variables = net.init(jax.random.key(0), x)
    (_, (y, _)), gradients = _value_and_gradients(net, variables, x)
    np.testing.assert_allclose(y, 0, atol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_options_keep_barriers_until_programs_are_fused():
    """Without the barriers a step recomputes activations inside transposes (layers.Conv)."""
    x = _images(2, 8, 8, 3)
    net = _layers.Conv(4, 3)
    variables = net.init(jax.random.key(0), x)
    program = jax.jit(net.apply, compiler_options=xla.options()).lower(variables, x).compile()
    assert "opt-barrier" in program.as_text()


def test_batch_norm_of_many_rows_loses_no_digits():
    x = jax.random.normal(jax.random.key(0), (200_704, 4)) + 5
    net = _layers.BatchNorm(False)
    _, new = net.apply(net.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(10 * new["batch_stats"]["mean"], exact.mean(0), rtol=2e-6)

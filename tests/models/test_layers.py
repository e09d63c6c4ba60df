"""Convolution and batch norm against Flax's own, values and gradients; heads against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cxr_jax import xla
from cxr_jax.models import _layers, resnet


def _images(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape) * 3 + 1


def _value_and_gradients(net, variables, x):
    """Outputs, new statistics, and gradients of a curved function of the outputs."""

    def loss(params, x):
        y, new = net.apply(variables | {"params": params}, x, mutable=["batch_stats"])
        weights = jnp.linspace(-1, 1, y.size).reshape(y.shape)
        return jnp.sum(jnp.sin(y) * weights), (y, new)

    return jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1), has_aux=True),
        compiler_options=xla.options(),
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


def test_batch_norm_of_a_product_from_its_factors_has_the_same_gradients():
    x, rng = jnp.maximum(_images(6, 5, 4, 3), 0) + 0.5, np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 12)), jnp.float32)
    net = _layers.BatchNorm(False)
    variables = net.init(jax.random.key(1), x, kernel)
    assert {leaf.shape for leaf in jax.tree.leaves(variables)} == {(12,)}
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape)), variables)
    slope = jnp.asarray(rng.normal(size=(6, 5, 4, 12)), jnp.float32)

    def run(variables, x, kernel, apart):
        given = (x, kernel) if apart else (x @ kernel,)
        y, new = net.apply(variables, *given, mutable=["batch_stats"])
        return (y * slope).sum(), (y, new)

    grad = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)
    expected, got = (grad(variables, x, kernel, apart) for apart in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), got, expected)


def test_batch_norm_with_relu_made_for_a_gpu_has_the_gradients_of_both():
    x, net = _images(6, 5, 4, 3), _layers.BatchNorm(False)
    variables = _randomised(net.init(jax.random.key(1), x))

    def run(params, x):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        y, new = net.apply(given, x, relu=True, mutable=["batch_stats"])
        return jnp.sin(y).sum(), (y, new)

    def gradients(platform):
        with xla.made_for(platform):
            return jax.value_and_grad(run, (0, 1), has_aux=True)(variables["params"], x)

    got, expected = gradients("gpu"), gradients("tpu")
    assert (got[0][1][0] == 0).any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


@pytest.mark.parametrize("d", [False, True])
def test_a_block_made_for_a_gpu_computes_what_others_compute(d):
    """In bfloat16 it is as far from float32 as the block of other platforms is."""
    fields = {"widths": (8, 8, 32), "kernels": (1, 3, 1), "stride": 1, "strided": 2, "d": d}
    fields |= {"squeeze": False, "last_scale_init": nn.initializers.ones}
    x = jnp.maximum(_images(16, 6, 6, 8), 0)
    variables = resnet.Block(**fields, dtype=jnp.dtype("float32")).init(jax.random.key(0), x, True)
    slope = _images(16, 6, 6, 32, seed=1)

    def gradients(platform, dtype):
        def run(params, x):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            net = resnet.Block(**fields, dtype=jnp.dtype(dtype))
            y, new = net.apply(given, x.astype(dtype), True, mutable=["batch_stats"])
            return (y * slope).sum(), new

        with xla.made_for(platform):
            return jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))(variables["params"], x)

    exact = gradients("tpu", "float32")

    def errors(found):
        each = jax.tree.map(lambda a, b: jnp.linalg.norm(a - b) / jnp.linalg.norm(b), found, exact)
        # Of the gradients the mean: of few rows one that rounding lets pass ReLU moves a leaf's.
        return np.mean(jax.tree.leaves(each[0])), each[1]

    gpu, others = (errors(gradients(name, "bfloat16")) for name in ("gpu", "tpu"))
    jax.tree.map(lambda a, b: np.testing.assert_array_less(a, 1.5 * b + 2e-3), gpu, others)


def test_groups_of_a_product_stay_apart_on_their_devices():
    """One grouped convolution of them all made every device of MoCo's compute the whole batch."""
    norm = _layers.BatchNorm(False)
    x, kernel = _images(3 * 4, 2, 2, 3).reshape(3, 4, 2, 2, 3), jnp.ones((3, 8)).at[1, 2].set(-2)
    variables = norm.init(jax.random.key(0), x[0], kernel)

    def loss(kernel, x):
        y, _ = norm.apply(variables, x, kernel, mutable=["batch_stats"])
        return (y * jnp.arange(8)).std(), y

    def groups(kernel, x):
        values, y = jax.vmap(loss, (None, 0))(kernel, x)
        return values.sum(), y

    gradient = jax.grad(groups, argnums=(0, 1), has_aux=True)
    assert "convolution" not in jax.jit(gradient).lower(kernel, x).as_text()
    (by_kernel, by_x), y = gradient(kernel, x)
    alone = [jax.grad(loss, argnums=(0, 1), has_aux=True)(kernel, group) for group in x]
    np.testing.assert_allclose(by_kernel, sum(one[0][0] for one in alone), atol=1e-5)
    np.testing.assert_allclose(by_x, jnp.stack([one[0][1] for one in alone]), atol=1e-5)
    np.testing.assert_allclose(y, jnp.stack([one[1] for one in alone]), atol=1e-5)


def test_the_options_keep_barriers_until_programs_are_fused():
    """Without the barriers a step recomputes activations inside transposes (layers.Conv)."""
    x = _images(2, 8, 8, 3)
    net = _layers.Conv(4, 3)
    variables = net.init(jax.random.key(0), x)
    program = jax.jit(net.apply, compiler_options=xla.options()).lower(variables, x).compile()
    assert "opt-barrier" in program.as_text()


@pytest.mark.parametrize(("rows", "mean"), [(200_704, 5), (512, 100), (25_088, 1000)])
def test_batch_norm_loses_no_digits_of_many_rows_or_a_large_mean(rows, mean):
    x = jax.random.normal(jax.random.key(0), (rows, 4)) + mean
    net = _layers.BatchNorm(False)
    y, new = net.apply(net.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(10 * new["batch_stats"]["mean"], exact.mean(0), rtol=2e-6)
    # PyTorch's error is as large: 2.7e-5 at a mean of 100, 2.5e-4 at 1000.
    standard = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y, standard, atol=max(2e-5, 1e-6 * mean))


def _batch(rows=16, dim=6):
    return jax.random.normal(jax.random.key(0), (rows, dim)) * 2 + 1


def _normalise(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def _randomised(variables, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.5, 0.5, leaf.shape), jnp.float32), variables
    )


def test_simclr_projector_is_batch_normalised_at_every_layer():
    net = _layers.MLP(hidden=(8, 7), out=5, out_bn=True)
    x = _batch()
    variables = net.init(jax.random.key(0), x, True)
    params = _randomised(variables["params"])
    z, updated = net.apply(
        {"params": params, "batch_stats": variables["batch_stats"]}, x, True, mutable="batch_stats"
    )
    h = x
    for i in range(2):
        h = _normalise(h @ np.asarray(params[f"dense{i}"]["kernel"]))
        h = np.maximum(h * params[f"bn{i}"]["scale"] + params[f"bn{i}"]["bias"], 0)
    expected = _normalise(h @ np.asarray(params["dense_out"]["kernel"])) * params["bn_out"]["scale"]
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-4)
    # No bias that a batch norm would absorb, and no shift at the output.
    assert {name: set(leaf) for name, leaf in params.items()} == {
        "dense0": {"kernel"},
        "bn0": {"scale", "bias"},
        "dense1": {"kernel"},
        "bn1": {"scale", "bias"},
        "dense_out": {"kernel"},
        "bn_out": {"scale"},
    }
    assert set(updated["batch_stats"]) == {"bn0", "bn1", "bn_out"}


def test_byol_head_in_evaluation_uses_its_running_statistics():
    net = _layers.MLP(hidden=(8,), out=4)
    x = _batch()
    variables = net.init(jax.random.key(0), x, True)
    params = _randomised(variables["params"])
    mean, var = np.full(8, 0.3, np.float32), np.full(8, 2.0, np.float32)
    z = net.apply({"params": params, "batch_stats": {"bn0": {"mean": mean, "var": var}}}, x, False)
    h = (x @ np.asarray(params["dense0"]["kernel"]) - mean) / np.sqrt(var + 1e-5)
    h = np.maximum(h * params["bn0"]["scale"] + params["bn0"]["bias"], 0)
    np.testing.assert_allclose(z, h @ params["dense_out"]["kernel"], rtol=1e-4, atol=1e-5)


def test_without_batch_norm_the_layers_have_biases():
    net = _layers.MLP(hidden=(8,), out=4, hidden_bn=False, out_bias=True)
    x = _batch()
    params = _randomised(net.init(jax.random.key(0), x, True)["params"])
    z = net.apply({"params": params}, x, True)
    h = np.maximum(x @ np.asarray(params["dense0"]["kernel"]) + params["dense0"]["bias"], 0)
    expected = h @ params["dense_out"]["kernel"] + params["dense_out"]["bias"]
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_statistics_and_output():
    net = _layers.MLP(hidden=(64,), out=16, out_bn=True, dtype="bfloat16")
    x = _batch(32)
    variables = net.init(jax.random.key(0), x, True)
    z, updated = net.apply(variables, x, True, mutable=["batch_stats"])
    full, _ = net.clone(dtype="float32").apply(variables, x, True, mutable=["batch_stats"])
    assert z.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, updated))} == {"float32"}
    assert 0 < np.linalg.norm(z - full) < 0.05 * np.linalg.norm(full)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 7, 6, 3), "float32"), ((3, 8, 9, 2), "bfloat16")]
)
def test_max_pool_and_its_gradient_are_flaxs_to_the_last_bit(shape, dtype):
    x = nn.relu(jnp.round(_images(*shape) - 2)).astype(dtype)  # full of ties
    slope = _images(shape[0], 4, (shape[2] + 1) // 2, shape[3]).astype(dtype)

    @partial(jax.jit, static_argnums=0)
    def both(pool, x):
        y, pull = jax.vjp(pool, x)
        return y, *pull(slope)

    expected = both(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1))), x)
    jax.tree.map(np.testing.assert_array_equal, both(_layers.max_pool, x), expected)
    spoilt, _ = both(_layers.max_pool, x.at[0, 0, 0, 0].set(jnp.nan))
    assert jnp.isnan(spoilt[0, 0, 0, 0]) and jnp.isnan(spoilt).sum() == 1

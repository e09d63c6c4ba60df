import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax.models._heads import MLP


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
    net = MLP(hidden=(8, 7), out=5, out_bn=True)
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
    net = MLP(hidden=(8,), out=4)
    x = _batch()
    variables = net.init(jax.random.key(0), x, True)
    params = _randomised(variables["params"])
    mean, var = np.full(8, 0.3, np.float32), np.full(8, 2.0, np.float32)
    z = net.apply({"params": params, "batch_stats": {"bn0": {"mean": mean, "var": var}}}, x, False)
    h = (x @ np.asarray(params["dense0"]["kernel"]) - mean) / np.sqrt(var + 1e-5)
    h = np.maximum(h * params["bn0"]["scale"] + params["bn0"]["bias"], 0)
    np.testing.assert_allclose(z, h @ params["dense_out"]["kernel"], rtol=1e-4, atol=1e-5)


def test_without_batch_norm_the_layers_have_biases():
    net = MLP(hidden=(8,), out=4, hidden_bn=False, out_bias=True)
    x = _batch()
    params = _randomised(net.init(jax.random.key(0), x, True)["params"])
    z = net.apply({"params": params}, x, True)
    h = np.maximum(x @ np.asarray(params["dense0"]["kernel"]) + params["dense0"]["bias"], 0)
    expected = h @ params["dense_out"]["kernel"] + params["dense_out"]["bias"]
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_parameters_statistics_and_output():
    net = MLP(hidden=(64,), out=16, out_bn=True, dtype="bfloat16")
    x = _batch(32)
    variables = net.init(jax.random.key(0), x, True)
    z, updated = net.apply(variables, x, True, mutable=["batch_stats"])
    full, _ = net.clone(dtype="float32").apply(variables, x, True, mutable=["batch_stats"])
    assert z.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, updated))} == {"float32"}
    assert 0 < np.linalg.norm(z - full) < 0.05 * np.linalg.norm(full)

"""A batch embedded in parts gives the gradient of the whole batch's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import objectives
from cxr_jax.objectives import l2_normalise
from cxr_jax.training import microbatch

KEY = jax.random.PRNGKey(3)
SIZE = 4  # of a part; moco's batch norm sees two images of one


def assert_alike(one, other, rtol, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


@pytest.mark.parametrize("name", ["simclr", "byol", "moco", "mae"])
def test_parts_give_the_gradient_of_the_whole_loss(tiny, batch, name):
    config = tiny(name, tiny.plain)
    if "b" in config["views"]:
        config["views"]["b"]["flip"] = 1.0
    if name != "mae":  # in float32 batch norm of so few images rounds by .001
        config["model"]["dtype"] = "float64"
    objective = objectives.build(config)

    def whole(params, aux):
        """All parts in one graph, for JAX to differentiate; part j takes every count-th image."""
        parts, count = [], 8 // SIZE
        for j in range(count):
            images = jax.tree.map(lambda x: x[j::count], batch)  # noqa: B023 (used at once)
            key = jax.random.fold_in(KEY, j)
            part, aux = objective.embed(params, aux, images, key)
            parts.append(part)
        return objective.loss_from_outputs(jax.tree.map(lambda *x: jnp.concatenate(x), *parts), aux)

    with jax.enable_x64(True):
        state = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)
        params, aux = jax.tree.map(
            lambda x: x if x.dtype == jnp.int32 else x.astype(jnp.float64), state
        )
        if name == "moco":  # an empty queue gives no gradient
            aux["queue"] = l2_normalise(jax.random.normal(KEY, aux["queue"].shape))
        in_parts = jax.jit(microbatch.value_and_grad(objective, SIZE))
        (loss, (after, metrics)), gradient = in_parts(params, aux, batch, KEY)
        (expected, (expected_after, expected_metrics)), expected_gradient = jax.jit(
            jax.value_and_grad(whole, has_aux=True)
        )(params, aux)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert_alike(metrics, expected_metrics, rtol=1e-4, atol=1e-6)
    if name == "moco":  # whose queue takes the images in the batch's order, here by parts
        order = np.arange(8).reshape(2, 4).T.ravel()
        expected_after["queue"] = expected_after["queue"].at[:8].set(expected_after["queue"][order])
    assert_alike(after, expected_after, rtol=1e-4, atol=1e-6)
    assert_alike(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0.01


def test_one_part_is_the_ordinary_step_and_statistics_follow_every_part(tiny, batch):
    objective = objectives.build(tiny("simclr"))
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)
    embed = jax.jit(lambda aux, images, key: objective.embed(params, aux, images, key)[1])

    def in_parts(size):
        return jax.jit(microbatch.value_and_grad(objective, size))(params, aux, batch, KEY)

    ordinary = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    expected = ordinary(params, aux, batch, jax.random.fold_in(KEY, 0))
    assert_alike(in_parts(8), expected, rtol=1e-3, atol=1e-5)
    (_, (after, _)), _ = in_parts(4)
    followed = aux
    for j in range(2):
        followed = embed(followed, {"image": batch["image"][j::2]}, jax.random.fold_in(KEY, j))
    assert_alike(after, followed, rtol=1e-3, atol=1e-5)


def test_parts_need_less_memory(tiny):
    objective = objectives.build(tiny("simclr", tiny.plain))
    batch = {"image": jax.ShapeDtypeStruct((256, 64, 64, 1), np.uint8)}
    state = jax.eval_shape(objective.init, KEY, batch)

    def memory(size):
        step = jax.jit(microbatch.value_and_grad(objective, size))
        return step.lower(*state, batch, KEY).compile().memory_analysis().temp_size_in_bytes

    assert memory(16) < memory(0) / 3

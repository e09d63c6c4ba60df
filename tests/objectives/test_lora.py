"""LoRA: adapters alone learn, and what leaves is an ordinary encoder."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax import models, weights
from cxr_jax.experiments import _pretrain_inputs
from cxr_jax.objectives import _lora, byol
from cxr_jax.training.step import create_state
from tests.fakes.plain_view import PLAIN

VIT = {"name": "vit", "variant": "16x1", "heads": 2, "hidden": 32, "patch": 8, "image_size": 32}
QUICKLY = {"xla_backend_optimization_level": 0}
FIELDS = {"rank": 2, "alpha": 6.0}


def _kernels(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


def test_merged_is_w_plus_alpha_over_rank_times_a_b():
    rng = np.random.default_rng(0)
    conv, dense = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 1, 6, 5), (4, 3)))
    encoder = {
        **{"stem": {"kernel": np.ones((4, 4))}, "norm": {"scale": np.ones(3)}},
        "block_0": {"conv": {"kernel": conv}, "wide": {"kernel": np.ones((3, 3, 6, 5))}},
        "block_1": {"mlp": {"fc1": {"kernel": dense, "bias": np.ones(3)}}},
    }
    adapters = _lora.new_adapters(jax.random.key(0), encoder, rank=2)
    shapes = {name: leaf.shape for name, leaf in _kernels(adapters).items()}
    assert shapes == {
        **{"block_0/conv/a": (6, 2), "block_0/conv/b": (2, 5)},
        **{"block_1/mlp/fc1/a": (4, 2), "block_1/mlp/fc1/b": (2, 3)},
    }
    jax.tree.map(np.testing.assert_array_equal, _lora.merge(encoder, adapters, 3.0), encoder)
    drawn = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), adapters)
    merged = _lora.merge(encoder, drawn, 6.0 / 2)
    for kernel, own, new in (
        (conv[0, 0], drawn["block_0"]["conv"], merged["block_0"]["conv"]["kernel"][0, 0]),
        (dense, drawn["block_1"]["mlp"]["fc1"], merged["block_1"]["mlp"]["fc1"]["kernel"]),
    ):
        np.testing.assert_allclose(new, kernel + 6 / 2 * (own["a"] @ own["b"]), atol=1e-5)
    assert merged["stem"] is encoder["stem"] and merged["norm"] is encoder["norm"]


@pytest.fixture(scope="module")
def adapted():
    """BYOL on a small ViT: (the objective, its LoRA, the state of that from a given encoder)."""
    config = {
        **{"model": VIT, "views": {"a": PLAIN, "b": PLAIN}, "num_train_steps": 10, "batch_size": 4},
        "objective": dict(name="byol", hidden=12, out=6, tau_base=0.9),
    }
    plain = byol.make(config)
    objective = _lora.adapt(plain, FIELDS, "config.lora")
    start = weights.random_encoder(VIT, 32, seed=7)
    create = partial(create_state, objective, optax.sgd(0.1), None, seed=0)
    state = jax.jit(create, compiler_options=QUICKLY)()
    start = _pretrain_inputs.Start(encoder=start, text=None)
    return plain, objective, _pretrain_inputs.put_start(state, start, objective), start.encoder


def test_at_the_start_it_is_the_encoder_that_it_was_given(adapted):
    _, objective, state, start = adapted
    exported = objective.exported(state.params, state.aux)
    jax.tree.map(np.testing.assert_array_equal, exported, start.variables)
    assert "encoder" not in state.params
    jax.tree.map(
        np.testing.assert_array_equal, state.aux["base"]["encoder"], start.variables["params"]
    )


def test_a_step_trains_adapters_and_heads_and_the_target_follows_the_merged_encoder(adapted):
    _, objective, state, start = adapted
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    batch = {"image": jnp.asarray(images)}

    @partial(jax.jit, compiler_options=QUICKLY)
    def step(params, aux):
        loss = jax.value_and_grad(objective.loss, has_aux=True)
        (_, (aux, _)), gradients = loss(params, aux, batch, jax.random.key(1))
        params = jax.tree.map(lambda value, slope: value - 0.5 * slope, params, gradients)
        return params, objective.after_update(params, aux, 0), gradients

    params, aux, gradients = step(state.params, state.aux)
    assert set(gradients) == {"lora", "projector", "predictor"}
    slopes = _kernels(gradients["lora"])
    assert {name.rpartition("/")[0] for name in slopes} == {
        f"block_0/{layer}" for layer in ("qkv", "proj", "fc1", "fc2")
    }
    assert all(np.abs(slope).max() > 0 for name, slope in slopes.items() if name[-1] == "b")
    before, after = state.aux["base"], aux["base"]
    jax.tree.map(np.testing.assert_array_equal, after, before)

    exported = objective.exported(params, aux)
    old, new = _kernels(start.variables["params"]), _kernels(exported["params"])
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {f"block_0/{name}/kernel" for name in ("qkv", "proj", "fc1", "fc2")}
    for name in changed:
        assert np.linalg.matrix_rank(new[name] - old[name], tol=1e-5) <= 2
    net, images = models.build(VIT), batch["image"] / 255
    ours, plain = jax.jit(
        lambda p, a, e: (objective.features(p, a, images), net.apply(e, images, train=False)),
        compiler_options=QUICKLY,
    )(params, aux, exported)
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    # BYOL's target: a tenth of the way from its random start's copy to the merged encoder.
    followed = (state.aux["target"]["params"]["encoder"], aux["target"]["params"]["encoder"])
    was, now, goal = (
        np.asarray(tree["block_0"]["fc1"]["kernel"]) for tree in (*followed, exported["params"])
    )
    assert np.abs(now - was).max() > 0
    np.testing.assert_allclose(now, was + (goal - was) * 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": -1}, r"config\.lora\.rank.*whole number, 0 \(off\) or more"),
        ({"rank": 1.5}, r"config\.lora\.rank.*whole number"),
        ({"alpha": 0.0}, r"config\.lora\.alpha.*above 0"),
    ],
)
def test_fields_that_make_no_sense_are_named(adapted, fields, message):
    with pytest.raises(ValueError, match=message):
        _lora.adapt(adapted[0], FIELDS | fields, "config.lora")


def test_rank_0_is_off_and_a_model_without_matrices_is_refused(adapted):
    assert _lora.adapt(adapted[0], FIELDS | {"rank": 0}, "config.lora") is adapted[0]
    with pytest.raises(ValueError, match="of which this model has none"):
        _lora.new_adapters(jax.random.key(0), {"conv1": {"kernel": np.ones((3, 3, 1, 8))}}, 2)

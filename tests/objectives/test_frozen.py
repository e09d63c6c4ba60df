"""Frozen stages and statistics: what stays is the start bit for bit, the rest learns as ever."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from cxr_jax import models, weights
from cxr_jax.experiments import _pretrain_inputs
from cxr_jax.objectives import _frozen
from cxr_jax.training.step import create_state, make_train_step, prepare
from tests.fakes import tiny_config
from tests.fakes.plain_view import PLAIN

QUICKLY = {"xla_backend_optimization_level": 0}
MODEL = {"name": "resnet", "variant": "small", "zero_init_residual": False}


def _config(stages, **model):
    return ConfigDict(
        {
            **{"model": MODEL | model, "views": {"a": PLAIN, "b": PLAIN}, "num_train_steps": 10},
            **{"batch_size": 4, "frozen_stages": stages},
            "objective": dict(name="byol", hidden=12, out=6, tau_base=0.9),
        }
    )


def _shifted(leaf):
    """Running statistics as of a trained encoder: 0 and 1 would hide which ones are read."""
    return np.float32(leaf + np.random.default_rng(0).uniform(-0.1, 0.1, leaf.shape))


@pytest.fixture(scope="module")
def frozen():
    """(BYOL, the same with its stem and first stage frozen, that one's state, the start)."""
    plain = _frozen.build(_config(-1, norm_eval=True))
    objective = _frozen.build(_config(1))
    start = weights.random_encoder(MODEL, 32, seed=7)
    stats = jax.tree.map(_shifted, start.variables["batch_stats"])
    start = start._replace(variables=start.variables | {"batch_stats": stats})
    create = jax.jit(lambda: create_state(objective, optax.adamw(0.1), None, 0))
    given = _pretrain_inputs.Start(encoder=start, text=None)
    return plain, objective, _pretrain_inputs.put_start(create(), given, objective), start


def test_what_stays_lies_where_no_optimizer_sees_it(frozen):
    _, objective, state, start = frozen
    exported = objective.exported(state.params, state.aux)
    jax.tree.map(np.testing.assert_array_equal, exported, dict(start.variables))
    stem = {"conv1", "bn1", "layer1_0"}
    assert set(state.aux["base"]["encoder"]) == stem
    assert set(state.params["encoder"]) == {"layer2_0", "layer3_0"}
    kept = jax.tree_util.tree_leaves_with_path(state.opt_state)
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in kept}
    assert any("/encoder/layer2_0/" in path for path in paths)
    assert not any(f"/encoder/{name}/" in path for name in stem for path in paths)


def test_a_step_leaves_it_as_it_was_and_moves_the_rest_by_its_own_gradient(frozen):
    plain, objective, state, start = frozen
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    batch, key = {"image": jnp.asarray(images)}, jax.random.key(1)
    whole = state.params | {"encoder": dict(start.variables["params"])}
    inner = {name: part for name, part in state.aux.items() if name != "base"}

    def both(params, aux):
        ours = jax.grad(objective.loss, has_aux=True)(params, aux, batch, key)[0]
        return ours, jax.grad(plain.loss, has_aux=True)(whole, inner, batch, key)[0]

    ours, all_of_it = jax.jit(both, compiler_options=QUICKLY)(state.params, state.aux)
    same = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    for name, slope in ours["encoder"].items():
        jax.tree.map(same, slope, all_of_it["encoder"][name])
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope)) > 0
    step = make_train_step(objective, optax.adamw(0.1), optax.constant_schedule(0.1))
    new, _ = jax.jit(step, compiler_options=QUICKLY)(state, batch)
    exported = objective.exported(new.params, new.aux)
    jax.tree.map(
        np.testing.assert_array_equal, exported["batch_stats"], start.variables["batch_stats"]
    )
    for name, part in start.variables["params"].items():
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), part, exported["params"][name])
        assert (max(jax.tree.leaves(moved)) > 0) == (name in state.params["encoder"]), name
    target = new.aux["target"]["params"]["encoder"]  # BYOL's follows all of the encoder
    jax.tree.map(np.testing.assert_array_equal, target["conv1"], start.variables["params"]["conv1"])


@pytest.mark.parametrize("model", [MODEL, {"name": "densenet", "variant": "121"}])
def test_norm_eval_trains_on_what_the_encoder_gives_when_it_is_read(model):
    net = models.build(model | {"norm_eval": True})
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))

    def run(key):
        variables = net.init(key, images, train=False)
        stats = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
        variables = variables | {"batch_stats": stats}
        trained, changed = net.apply(variables, images, train=True, mutable=["batch_stats"])
        return trained, net.apply(variables, images, train=False), changed["batch_stats"], stats

    trained, read, after, before = jax.jit(run, compiler_options=QUICKLY)(jax.random.key(1))
    np.testing.assert_array_equal(trained, read)
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize(("name", "preset"), [("dino", "cpu"), ("mae", "cpu"), ("convirt", "demo")])
def test_every_kind_of_objective_trains_behind_what_is_frozen(name, preset, tmp_path):
    config = tiny_config.make(name, preset, tmp_path)
    whole = _frozen.build(config)
    config.frozen_stages, config.microbatch_size = 0, 8
    objective = _frozen.build(config)
    training = prepare(config, objective, 64)
    state, batch = training.shapes()
    new, _ = training.step.eval_shape(state, batch)
    shapes = partial(jax.tree.map, lambda leaf: leaf.shape)
    assert shapes(new) == shapes(state)
    plain = jax.eval_shape(whole.init, jax.random.key(0), batch)
    assert len(jax.tree.leaves(state.params)) < len(jax.tree.leaves(plain[0]))
    for read in ("exported", "text") if objective.text else ("exported",):
        ours = jax.eval_shape(getattr(objective, read), state.params, state.aux)
        assert shapes(ours) == shapes(jax.eval_shape(getattr(whole, read), *plain)), read


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (-2, r"config\.frozen_stages=-2: it must be -1 \(nothing is frozen\)"),
        (1.5, r"config\.frozen_stages=1\.5: it must be"),
        (3, r"config\.frozen_stages=3 leaves nothing of the encoder to train: at most 2 of its 3"),
    ],
)
def test_numbers_that_make_no_sense_are_named(stages, message):
    with pytest.raises(ValueError, match=message):
        objective = _frozen.build(_config(stages))
        jax.eval_shape(lambda: objective.init(jax.random.key(0), None))

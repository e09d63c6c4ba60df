"""Every objective's contract; SimCLR's and BYOL's statistics, target, gradients; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax import models, objectives
from cxr_jax.models._layers import MLP
from cxr_jax.objectives import l2_normalise
from cxr_jax.objectives.byol import byol_loss
from cxr_jax.objectives.simclr import nt_xent

KEY = jax.random.PRNGKey(0)
_EVERY = ["simclr", "byol", "simsiam", "barlow", "vicreg", "moco", "dino", "convirt"]


_INITIAL = {}  # by objective: the views do not matter to it, and it takes seconds to compile


def ready(config, batch):
    objective, name = objectives.build(config), config["objective"]["name"]
    if name not in _INITIAL:
        _INITIAL[name] = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)
        if name == "moco":  # from an empty queue nothing is learned
            queue = jax.random.normal(KEY, _INITIAL[name][1]["queue"].shape)
            _INITIAL[name][1]["queue"] = l2_normalise(queue)
    params, aux = jax.tree.map(jnp.copy, _INITIAL[name])
    return objective, params, aux


@pytest.mark.parametrize("name", ["convirt", "gloria", "refers"])
def test_what_is_kept_of_a_text_tower_holds_no_array_of_one_host(tiny, batch, name):
    """Orbax refuses such in a checkpoint of several; of the state, here NumPy's, none is."""
    objective = objectives.build(tiny(name))
    shapes = jax.eval_shape(objective.init, KEY, batch)
    params, aux = jax.tree.map(lambda of: np.zeros(of.shape, of.dtype), shapes)
    kept = jax.tree.leaves(objective.text(params, aux))
    assert kept and not any(isinstance(leaf, jax.Array) for leaf in kept)


def shifted(tree, seed=2):
    """Every number of a tree moved at random, so that nothing stays at 0 or 1 by initialisation."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    return structure.unflatten(
        [leaf + jnp.asarray(rng.uniform(0.01, 0.2, leaf.shape), leaf.dtype) for leaf in leaves]
    )


def encoder_inputs(images, params):
    """What the tiny encoder's batch norm sees, by numpy, for views that change nothing."""
    blocks = np.asarray(images, np.float64).reshape(-1, 4, 8, 4, 8).mean(axis=(2, 4)) / 255
    return blocks.reshape(len(images), 16) @ np.asarray(params["encoder"]["dense"]["kernel"])


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_init_and_loss_have_the_agreed_shape(tiny, batch, name):
    objective, params, aux = ready(tiny(name), batch)
    jitted = jax.jit(objective.loss)
    loss, (new_aux, metrics) = jitted(params, aux, batch, KEY)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert jax.tree.structure(new_aux) == jax.tree.structure(aux)
    assert jax.tree.map(jnp.shape, new_aux) == jax.tree.map(jnp.shape, aux)
    assert {"embedding_std", "effective_rank"} <= metrics.keys()
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())
    assert ("contrastive_accuracy" in metrics) == (name == "simclr")
    assert loss == jitted(params, aux, batch, KEY)[0]
    assert loss != jitted(params, aux, batch, jax.random.PRNGKey(7))[0]


@pytest.mark.parametrize("name", ["simclr", "byol", "dino"])
def test_features_are_the_encoders_in_evaluation_mode(tiny, batch, name):
    objective, params, aux = ready(tiny(name), batch)
    params, aux = shifted(params), shifted(aux)
    images = batch["image"] / 255.0
    features = objective.features(params, aux, images)
    np.testing.assert_allclose(
        objective.features(params, aux, images[:1]), features[:1], rtol=1e-5, atol=1e-6
    )
    exported = objective.exported(params, aux)
    again = models.build(tiny(name)["model"]).apply(exported, images, train=False)
    np.testing.assert_array_equal(again, features)
    assert features.shape == (8, 16)


def test_simclr_loss_is_nt_xent_of_the_concatenated_views(tiny, batch):
    objective, params, aux = ready(tiny("simclr", tiny.plain), batch)
    loss, (new_aux, metrics) = jax.jit(objective.loss)(params, aux, batch, KEY)
    images = jnp.concatenate([batch["image"]] * 2) / 255.0
    encoder = models.build(tiny("simclr")["model"])
    projector = MLP(hidden=(12,), out=6, out_bn=True)
    h = encoder.apply({"params": params["encoder"]}, images, train=True, mutable=["batch_stats"])[0]
    z = projector.apply({"params": params["projector"]}, h, train=True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(loss, nt_xent(z[:8], z[8:], 0.2), rtol=1e-5)
    assert metrics["contrastive_accuracy"] == 1
    inputs = encoder_inputs(batch["image"], params)
    stats = new_aux["batch_stats"]["encoder"]["bn"]
    np.testing.assert_allclose(stats["mean"], 0.1 * inputs.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * inputs.var(axis=0), atol=1e-6)


@pytest.mark.parametrize("solarised", [False, True])
def test_byol_predicts_the_target_of_the_other_view(tiny, batch, solarised):
    config = tiny("byol", tiny.plain)
    config["views"]["b"]["solarise_prob"] = float(solarised)
    objective, params, aux = ready(config, batch)
    aux["target"]["params"] = shifted(aux["target"]["params"])
    loss, _ = jax.jit(objective.loss)(params, aux, batch, KEY)
    encoder, head = models.build(tiny("byol")["model"]), MLP(hidden=(12,), out=6)

    def run(module, variables, x):
        return module.apply({"params": variables}, x, train=True, mutable=["batch_stats"])[0]

    def project(variables, images):
        return run(head, variables["projector"], run(encoder, variables["encoder"], images))

    a = batch["image"] / 255.0
    b = jnp.where(a >= 0.5, 1 - a, a) if solarised else a
    predict_a, predict_b = (run(head, params["predictor"], project(params, x)) for x in (a, b))
    target_a, target_b = (project(aux["target"]["params"], x) for x in (a, b))
    expected = byol_loss(predict_a, target_b) + byol_loss(predict_b, target_a)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    same_view = byol_loss(predict_a, target_a) + byol_loss(predict_b, target_b)
    assert (abs(same_view - expected) > 0.01) == solarised


def test_byol_statistics_take_one_view_after_the_other(tiny, batch):
    config = tiny("byol", tiny.plain)
    config["views"]["b"]["solarise_prob"] = 1.0
    objective, params, aux = ready(config, batch)
    _, (new_aux, _) = jax.jit(objective.loss)(params, aux, batch, KEY)
    images = np.asarray(batch["image"])
    first = encoder_inputs(images, params)
    second = encoder_inputs(np.where(images >= 127.5, 255 - images, images), params)
    for stats in (new_aux["batch_stats"], new_aux["target"]["batch_stats"]):
        mean = 0.9 * 0.1 * first.mean(axis=0) + 0.1 * second.mean(axis=0)
        var = 0.9 * (0.9 + 0.1 * first.var(axis=0)) + 0.1 * second.var(axis=0)
        np.testing.assert_allclose(stats["encoder"]["bn"]["mean"], mean, atol=1e-6)
        np.testing.assert_allclose(stats["encoder"]["bn"]["var"], var, atol=1e-6)


def test_byol_target_starts_as_a_copy_that_can_be_donated(tiny, batch):
    objective = objectives.build(tiny("byol"))
    for init in (objective.init, jax.jit(objective.init)):
        params, aux = init(KEY, batch)
        target = aux["target"]["params"]
        assert target.keys() == {"encoder", "projector"}
        assert params.keys() == {"encoder", "projector", "predictor"}
        for name, tree in target.items():
            jax.tree.map(np.testing.assert_array_equal, tree, params[name])
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, aux))]
        assert len(set(pointers)) == len(pointers)
        jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)((params, aux))


def test_byol_target_gets_no_gradient_and_everything_online_does(tiny, batch):
    objective, params, aux = ready(tiny("byol", tiny.plain), batch)
    target = shifted(aux["target"]["params"])

    def loss(params, target):
        changed = aux | {"target": aux["target"] | {"params": target}}
        return objective.loss(params, changed, batch, KEY)[0]

    online, fixed = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, target)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(fixed))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(online))


@pytest.mark.parametrize("step, rate", [(0, 0.1), (5, 0.05), (10, 0.0)])
def test_byol_target_follows_the_updated_parameters(tiny, batch, step, rate):
    objective, params, aux = ready(tiny("byol"), batch)
    before = jax.tree.map(np.asarray, aux["target"]["params"])
    updated = shifted(params)
    after = jax.jit(objective.after_update)(updated, aux, jnp.int32(step))
    for name, tree in after["target"]["params"].items():
        expected = jax.tree.map(
            lambda old, new: old + rate * (np.asarray(new) - old), before[name], updated[name]
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tree, expected)
    kept = after["batch_stats"], after["target"]["batch_stats"]
    expected = aux["batch_stats"], aux["target"]["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, kept, expected)


def test_simclr_keeps_aux_after_an_update(tiny, batch):
    objective, params, aux = ready(tiny("simclr"), batch)
    assert objective.after_update(params, aux, 3) is aux


@pytest.mark.parametrize("name", _EVERY)
def test_training_lowers_the_loss(tiny, batch, name):
    objective, params, aux = ready(tiny(name, tiny.plain | dict(flip=0.5)), batch)
    if name == "dino":  # whose student starts as its teacher
        params = shifted(params)
    optimizer = optax.adam(0.01)

    @jax.jit
    def train_step(params, aux, opt_state, step):
        key = jax.random.fold_in(KEY, step)
        gradient = jax.value_and_grad(objective.loss, has_aux=True)
        (loss, (new_aux, metrics)), gradients = gradient(params, aux, batch, key)
        updates, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(params, updates)
        return params, objective.after_update(params, new_aux, step), opt_state, loss, metrics

    opt_state, losses = optimizer.init(params), []
    for step in range(60):
        params, new_aux, opt_state, loss, metrics = train_step(params, aux, opt_state, step)
        assert jax.tree.map(jnp.shape, new_aux) == jax.tree.map(jnp.shape, aux)
        if name not in ("moco", "dino"):  # whose task gets harder with the queue, and the teacher
            aux = new_aux
        losses.append(float(loss))
    least = -1 if name == "simsiam" else 0
    share = 0.85 if name == "moco" else 0.7  # few random keys in a queue are easily told apart
    assert np.mean(losses[-10:]) - least < share * (np.mean(losses[:10]) - least)
    if name != "moco":  # whose keys, of a random network that follows nothing here, lie close by
        assert metrics["embedding_std"] > 0.3 and metrics["effective_rank"] > 1.5
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())


def test_unknown_objective_lists_those_there_are(tiny):
    for name in ("simclrr", "monitors"):
        config = tiny("simclr") | {"objective": {"name": name}}
        with pytest.raises(
            ValueError, match=f"no objective '{name}'.*it holds: barlow, byol, clip, convirt, "
        ):
            objectives.build(config)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("simclr", dict(temprature=0.1), "has no field 'temprature'; did you mean 'temperature'"),
        ("simclr", dict(temperature=0.0), r"objective\.temperature is 0\.0; it must be above 0"),
        ("byol", dict(tau_base=1.5), r"objective\.tau_base is 1\.5"),
        ("byol", dict(tau=0.9), "has no field 'tau'; "),
    ],
)
def test_wrong_objective_field_is_named(tiny, name, change, message):
    config = tiny(name)
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_missing_objective_field_is_named(tiny):
    config = tiny("byol")
    del config["objective"]["tau_base"]
    with pytest.raises(ValueError, match=r"config\.objective lacks 'tau_base'"):
        objectives.build(config)


def test_wrong_views_are_named(tiny):
    config = tiny("simclr")
    config["views"]["b"]["size"] = 48
    with pytest.raises(ValueError, match="sizes 32 and 48; SimCLR needs views of one size"):
        objectives.build(config)
    del config["views"]["b"]["flip"]
    with pytest.raises(ValueError, match=r"config\.views\.b lacks 'flip'"):
        objectives.build(config)
    del config["views"]["b"]
    with pytest.raises(ValueError, match="holds 1 views; this objective needs two"):
        objectives.build(config)

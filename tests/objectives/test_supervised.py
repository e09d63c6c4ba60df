"""Supervised: masked losses, first head, one step, layer-wise rates, refusal elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cxr_jax import objectives
from cxr_jax.objectives import supervised
from cxr_jax.training.step import TrainState, make_train_step
from cxr_jax.transfer._training import with_layer_decay, with_rate
from tests.fakes.plain_view import PLAIN

TARGETS = np.array([[0.0, 1], [1, 0]])


class Tiny(nn.Module):
    """Compiles in no time; its depths have a gap, as where a stage has no weights."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(6, use_bias=False, name="first")(images[:, ::4, ::4].reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(8, name="second")(x)

    def depth(self, name):
        return {"first": 0, "norm": 0, "second": 2}[name]


@pytest.fixture(scope="module")
def model():
    return Tiny()


@pytest.fixture(scope="module")
def variables(model):
    return model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)), train=False)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
    target = np.array([[1, 0], [0, 1], [1, np.nan], [np.nan, 1], [0, 0], [1, 1]], np.float32)
    return {"image": blocks.repeat(4, axis=1).repeat(4, axis=2), "target": target}


def first_state(made, optimizer):
    params, aux = made.init(None, None)
    key = jax.random.PRNGKey(0)
    return TrainState(jnp.zeros((), jnp.int32), params, aux, optimizer.init(params), key)


def jitted_step(made, optimizer):
    return jax.jit(make_train_step(made, optimizer, lambda step: 1.0))


def take_step(model, variables, batch, optimizer, view=PLAIN):
    made = supervised.objective(model, variables, 8, TARGETS, dict(view) | {"size": 16})
    state = first_state(made, optimizer)
    after, metrics = jitted_step(made, optimizer)(state, batch)
    return state, after, metrics["loss"]


def test_loss_is_the_mean_over_known_targets():
    logits = jnp.array([[0.5, -1.0], [2.0, 3.0]])
    loss = supervised.masked_loss(logits, jnp.array([[1.0, jnp.nan], [0.0, jnp.nan]]))
    assert loss == pytest.approx((np.log1p(np.exp(-0.5)) + np.log1p(np.exp(2.0))) / 2, rel=1e-6)
    assert supervised.masked_loss(logits, jnp.full((2, 2), jnp.nan)) == 0


def test_a_missing_target_has_no_gradient(model, variables, batch):
    targets = batch["target"]
    gradient = jax.grad(supervised.masked_loss)(jnp.ones((6, 2)), jnp.asarray(targets))
    known = ~np.isnan(targets)
    expected = (jax.nn.sigmoid(1.0) - targets) / known.sum()
    np.testing.assert_allclose(gradient, np.where(known, expected, 0), rtol=1e-6)
    assert (np.asarray(gradient)[~known] == 0).all()
    # Nor where it passes through the whole network: a label nobody knows leaves its head alone.
    unknown = batch | {"target": targets * np.array([1, np.nan], np.float32)}
    before, after, loss = take_step(model, variables, unknown, optax.sgd(1.0))
    assert np.isfinite(loss)
    head = jax.device_get((before.params["head"], after.params["head"]))
    assert (head[0]["kernel"][:, 1] == head[1]["kernel"][:, 1]).all()
    assert head[0]["bias"][1] == head[1]["bias"][1] and head[0]["bias"][0] != head[1]["bias"][0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


def test_softmax_loss_is_the_mean_over_images_that_have_a_class():
    logits = np.array([[0.5, -1.0, 0.0], [2.0, 3.0, 1.0], [1.0, 1.0, 9.0]])
    targets = np.array([[1, 0, 0], [np.nan] * 3, [0, 1, 0]])
    loss, gradient = jax.value_and_grad(supervised.masked_softmax_loss)(
        jnp.asarray(logits), jnp.asarray(targets)
    )
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert loss == pytest.approx(-np.log(chances[[0, 2], [0, 1]]).mean(), rel=1e-6)
    expected = np.where(np.isnan(targets), 0, chances - targets) / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)
    assert supervised.masked_softmax_loss(jnp.asarray(logits), jnp.full((3, 3), jnp.nan)) == 0


def test_a_head_starts_at_the_prevalence():
    targets = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [np.nan] * 3])
    heads = [supervised.first_head(8, targets, exclusive) for exclusive in (False, True)]
    plain, exclusive = (head["bias"] for head in heads)
    assert not heads[0]["kernel"].any() and heads[0]["kernel"].shape == (8, 3)
    np.testing.assert_allclose(jax.nn.sigmoid(plain), [0.5, 0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(np.exp(exclusive), [0.5, 0.25, 0.25], rtol=1e-6)


def test_layer_decay_multiplies_the_rate_of_every_depth_exactly(model, variables):
    params = {"encoder": variables["params"], "head": {"kernel": jnp.ones((8, 2))}}
    gradients = jax.tree.map(
        lambda leaf: jnp.sin(1 + jnp.arange(leaf.size)).reshape(leaf.shape), params
    )
    plain = optax.adamw(0.1, weight_decay=0.3)
    decayed = with_layer_decay(plain, model, 0.5)
    full, _ = plain.update(gradients, plain.init(params), params)
    scaled, _ = decayed.update(gradients, decayed.init(params), params)
    below = {"first": 3, "norm": 3, "second": 1}
    assert below.keys() == scaled["encoder"].keys()
    for name, count in below.items():
        for one, other in zip(*(jax.tree.leaves(t["encoder"][name]) for t in (full, scaled))):
            np.testing.assert_array_equal(0.5**count * one, other)  # a power of two: no rounding
    np.testing.assert_array_equal(full["head"]["kernel"], scaled["head"]["kernel"])
    assert with_layer_decay(plain, model, 1.0) is plain


def test_the_states_rate_is_the_optimizers(model, variables, batch):
    made = supervised.objective(model, variables, 8, TARGETS, dict(PLAIN) | {"size": 16})
    plain = optax.adamw(1.0, weight_decay=0.1)
    # The step is compiled for one rate, the state holds another.
    state = first_state(made, with_rate(plain, 0.01))
    of_state = (state, jitted_step(made, with_rate(plain, 1.0))(state, batch)[0])
    of_optax = take_step(model, variables, batch, optax.adamw(0.01, weight_decay=0.1))
    for one, other in zip(*(jax.tree.leaves(run[1].params) for run in (of_state, of_optax))):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_step_moves_weights_and_statistics_and_draws_anew(model, variables, batch):
    view = PLAIN | {"crop_scale": (0.5, 1.0)}
    # From weights of zero nothing reaches the encoder: the head moves first.
    optimizer = optax.sgd(0.1)
    before, after, first = take_step(model, variables, batch, optimizer, view=view)
    assert int(after.step) == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert moved["head"] == {"kernel": True, "bias": True}
    assert not any(jax.tree.leaves(moved["encoder"]))
    made = supervised.objective(model, variables, 8, TARGETS, view | {"size": 16})
    then, metrics = jitted_step(made, optimizer)(after, batch)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, then.params)
    assert all(jax.tree.leaves(moved)) and metrics["loss"] < first
    statistics = jax.tree.leaves(jax.tree.map(jnp.subtract, before.aux, after.aux))
    assert all(np.abs(leaf).max() > 0 for leaf in statistics)
    scores, network = jax.jit(supervised.make_scores(model)), supervised.scored_network(*then[1:3])
    whole, alone = scores(network, batch["image"]), scores(network, batch["image"][:1])
    images = batch["image"] / jnp.float32(255)
    head = then.params["head"]
    features = made.features(then.params, then.aux, images)
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], whole, rtol=1e-4)
    np.testing.assert_allclose(alone, whole[:1], rtol=1e-4)  # image by image


def test_a_pretraining_cannot_name_what_needs_labels():
    with pytest.raises(ValueError, match=r"'supervised' learns from labels.*protocol=finetune"):
        objectives.build({"objective": {"name": "supervised"}})

"""CLIP: its loss by PyTorch and by hand, its temperature, what is kept of the text."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxr_jax import objectives
from cxr_jax.objectives import clip
from cxr_jax.training import microbatch

KEY = jax.random.PRNGKey(0)
clip_loss = jax.jit(clip.clip_loss)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def by_hand(images, texts, logit_scale):
    """The loss in NumPy, float64, from the paper's figure 3."""
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    logits = images @ texts.T * np.exp(logit_scale)
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return (rows.mean() + columns.mean()) / 2


def test_loss_is_the_papers():
    images, texts = draw(7, 5), draw(7, 5, seed=1)
    for logit_scale in (0.0, 2.659, np.log(100)):
        loss = clip_loss(*map(jnp.float32, (images, texts)), jnp.float32(logit_scale))
        np.testing.assert_allclose(loss, by_hand(images, texts, logit_scale), rtol=2e-5)
    loss = clip_loss(*map(jnp.float32, (images, texts)), jnp.float32(9.0))
    np.testing.assert_allclose(loss, by_hand(images, texts, np.log(100)), rtol=2e-5)


def test_loss_and_gradients_are_pytorchs():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    given = (draw(7, 5), draw(7, 5, seed=1), np.array(2.5))
    tensors = [torch.tensor(x, requires_grad=True) for x in given]
    images, texts = (functional.normalize(x, dim=1) for x in tensors[:2])
    logits, own = tensors[2].exp() * images @ texts.T, torch.arange(7)
    expected = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
    (expected / 2).backward()
    ours = jax.jit(jax.value_and_grad(clip.clip_loss, argnums=(0, 1, 2)))
    value, gradients = ours(*map(jnp.float32, given))
    np.testing.assert_allclose(value, expected.item() / 2, rtol=2e-5)
    for gradient, tensor in zip(gradients, tensors):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("value", "slope", "passed"),
    [(2.0, -1, -1), (2.0, 1, 1), (5.0, -1, 0), (5.0, 1, 1), (-1.0, 1, 0), (-1.0, -1, -1)],
)
def test_a_gradient_leads_back_and_not_out(value, slope, passed):
    assert jax.grad(lambda x: slope * clip.held(x))(jnp.float32(value)) == passed


def test_the_temperature_is_learnt_also_in_parts_of_a_batch(tiny, batch):
    """In two microbatches, whose gradients add up to those of the whole batch."""
    objective = objectives.build(tiny("clip", tiny.plain))
    params, aux = jax.jit(objective.init)(KEY, batch)
    np.testing.assert_allclose(params["logit_scale"], -np.log(0.07), rtol=1e-6)
    whole, parts = (jax.jit(microbatch.value_and_grad(objective, size)) for size in (0, 4))
    (_, (_, metrics)), gradients = parts(params, aux, batch, KEY)
    assert set(metrics) == set(objective.metrics)
    # The tiny encoder's batch norm sees the parts.
    first, by_parts = metrics["temperature"], gradients["logit_scale"]
    assert by_parts != 0 and np.isfinite(by_parts)
    optimizer = optax.adam(0.01)
    state, losses = optimizer.init(params), []
    for _ in range(20):
        (loss, (aux, metrics)), gradients = whole(params, aux, batch, KEY)
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0] and metrics["temperature"] != first
    kept = objective.text(params, aux)
    np.testing.assert_allclose(kept["scale"], 1 / metrics["temperature"], rtol=0.05)
    assert kept["text"] == params["text"]
    assert kept["heads"]["image"]["params"] == params["projector"]


def test_without_projectors_both_towers_must_meet(tiny, batch):
    config = tiny("clip")
    config["objective"]["out"] = 0
    params, _ = jax.eval_shape(objectives.build(config).init, KEY, batch)
    assert params.keys() == {"encoder", "text", "logit_scale"}
    config["objective"]["text"]["projection"] = 5
    with pytest.raises(ValueError, match=r"out=0, and features have 16 entries, texts 5: give"):
        objectives.build(config)
    config["objective"]["hidden"] = (4,)
    with pytest.raises(ValueError, match=r"hidden is \(4,\); it must be \(\) where out is 0"):
        objectives.build(config)
    config["objective"]["temperature"] = 0.001
    with pytest.raises(ValueError, match=r"temperature is 0\.001; it must be between \.01 and 1"):
        objectives.build(config)

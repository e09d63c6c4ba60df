"""ConVIRT: its loss by hand and by PyTorch, retrieval, frozen layers, wrong fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, objectives
from cxr_jax.objectives import _image_text, convirt

KEY = jax.random.PRNGKey(0)
image_text_loss = jax.jit(convirt.image_text_loss, static_argnums=(2, 3))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_values_that_any_right_implementation_gives():
    same = jnp.ones((8, 3))
    np.testing.assert_allclose(image_text_loss(same, same, 0.1, 0.75), np.log(8), rtol=1e-6)
    eye = jnp.eye(4)
    # Orthonormal pairs at temperature .1: log(1 + 3 exp(-10)).
    expected = np.log1p(3 * np.exp(-10))
    for weight in (0.75, 1.0):
        loss = image_text_loss(5 * eye, 2 * eye, 0.1, weight)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # Two images of one direction, texts apart: to its text each has two alike images' logits, and
    # from its image each text has one of two equal images.
    images, texts = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.eye(2)
    to_text = (np.log1p(np.exp(-10)) + np.log1p(np.exp(10))) / 2
    for weight in (0.0, 0.75):
        expected = weight * to_text + (1 - weight) * np.log(2)
        loss = image_text_loss(images, texts, 0.1, weight)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert image_text_loss(images[:1], texts[:1], 0.1, 0.75) == 0


def test_loss_and_gradients_are_pytorchs():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    images, texts = draw(7, 5), draw(7, 5, seed=1)

    def theirs(images, texts):
        cosines = functional.cosine_similarity(images[:, None], texts[None], dim=-1)
        own = torch.arange(7)
        to_text = functional.cross_entropy(cosines / 0.1, own)
        return 0.75 * to_text + 0.25 * functional.cross_entropy(cosines.T / 0.1, own)

    tensors = [torch.tensor(x, requires_grad=True) for x in (images, texts)]
    expected = theirs(*tensors)
    expected.backward()
    arrays = [jnp.asarray(x, jnp.float32) for x in (images, texts)]
    ours = jax.value_and_grad(image_text_loss, argnums=(0, 1))
    value, gradients = ours(*arrays, 0.1, 0.75)
    np.testing.assert_allclose(value, expected.item(), rtol=2e-5)
    for gradient, tensor in zip(gradients, tensors):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-5)


def test_retrieval_counts_hits_and_no_copies():
    eye, different = jnp.eye(4), jnp.arange(4.0)
    accuracy = _image_text.retrieval_accuracy
    assert accuracy(eye, eye, different) == 1
    assert accuracy(eye, jnp.ones((4, 4)), different) == 0  # collapsed: ties are misses
    assert accuracy(eye, eye[jnp.array([0, 2, 1, 3])], different) == 0.5
    # Images 0 and 1 have the same text, which is right for both.
    texts, ids = eye[jnp.array([0, 0, 2, 3])], jnp.array([0.0, 0, 2, 3])
    images = eye.at[1].set(eye[0])
    assert accuracy(images, texts, ids) == 1
    assert accuracy(images, texts, different) == 0.5


def test_texts_are_told_apart_by_tokens_and_length():
    tokens = jnp.array([[1, 2, 3], [1, 2, 3], [2, 1, 3], [1, 2, 0], [1, 0, 0], [0, 0, 0]])
    ids = np.asarray(_image_text.text_ids(tokens, tokens > 0))
    assert ids[0] == ids[1] and len(set(ids.tolist())) == 5 and ids[5] == 0
    many = jnp.asarray(np.random.default_rng(0).integers(0, 9, (2000, 8)))
    ids = np.asarray(_image_text.text_ids(many, many >= 0))
    assert len(set(ids.tolist())) >= 1998


def test_only_the_image_encoder_is_exported(tiny, batch):
    config = tiny("convirt")
    params, aux = jax.eval_shape(objectives.build(config).init, KEY, batch)
    assert params.keys() == {"encoder", "projector", "text", "text_projector"}
    image = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    encoder = models.build(config["model"])
    alone = jax.eval_shape(lambda x: encoder.init(KEY, x, train=False), image)
    assert objectives.build(config).exported(params, aux) == alone


def test_batch_norm_in_the_heads_keeps_statistics_of_both(tiny, batch):
    config = tiny("convirt")
    config["objective"]["head_bn"] = True
    objective = objectives.build(config)
    params, aux = jax.eval_shape(objective.init, KEY, batch)
    assert aux["batch_stats"]["text_projector"].keys() == {"bn0", "bn_out"}
    assert aux["batch_stats"]["projector"].keys() == {"bn0", "bn_out"}
    outputs, after = jax.eval_shape(objective.embed, params, aux, batch, KEY)
    assert jax.tree.structure(after) == jax.tree.structure(aux)
    assert outputs["image"].shape == outputs["text"].shape == (8, 6)


def test_frozen_layers_are_none_of_the_optimizers(tiny, batch):
    config = tiny("convirt")
    config["objective"]["text"] |= dict(weights="bert.safetensors", frozen_layers=1, num_blocks=3)
    params, aux = jax.eval_shape(objectives.build(config).init, KEY, batch)
    assert params["text"].keys() == {"layer_1", "layer_2"}
    assert aux["frozen_text"].keys() == {"embeddings", "layer_0"}
    other = {name: f"other {name}" for name in ("embeddings", "layer_0", "layer_1", "layer_2")}
    new_params, new_aux = _image_text.put_text(params, aux, other)
    assert new_params["encoder"] is params["encoder"]
    assert new_params["text"] == {name: other[name] for name in ("layer_1", "layer_2")}
    assert new_aux["frozen_text"] == {name: other[name] for name in ("embeddings", "layer_0")}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 0.0, r"objective\.temperature is 0\.0; it must be above 0"),
        ("image_weight", 1.5, r"objective\.image_weight is 1\.5; it must be between 0 and 1"),
        ("lambda", 0.5, "has no field 'lambda'"),
        ("text.frozen_layers", 3, r"text\.frozen_layers=3 of 1 layers"),
        ("text.frozen_layers", 1, r"frozen_layers=1 without .*weights would keep random numbers"),
        ("text.blocks", 1, "no field 'blocks'; did you mean 'num_blocks'"),
    ],
)
def test_wrong_fields_are_named(tiny, field, value, message):
    config = tiny("convirt")
    section, _, name = f".{field}".rpartition(".")
    (config["objective"]["text"] if section == ".text" else config["objective"])[name] = value
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_batches_and_views_that_do_not_fit_are_named(tiny):
    config = tiny("convirt")
    config["data"]["reports"]["max_tokens"] = 9
    with pytest.raises(ValueError, match=r"max_tokens=9 is more than the 8 positions"):
        objectives.build(config)
    del config["data"]["reports"]
    with pytest.raises(ValueError, match=r"needs batches with reports; set config\.data\.reports"):
        objectives.build(config)
    config = tiny("convirt")
    config["views"]["b"] = config["views"]["a"]
    with pytest.raises(ValueError, match="views holds a, b; convirt has one view, 'a'"):
        objectives.build(config)

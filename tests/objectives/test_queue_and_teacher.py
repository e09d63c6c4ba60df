"""What MoCo and DINO keep between steps, and which images share batch norm's statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, objectives
from cxr_jax.augment.views import augment_view
from cxr_jax.objectives import dino
from cxr_jax.objectives import moco as moco_objective

KEY = jax.random.PRNGKey(0)


@pytest.fixture
def moco(tiny, batch):
    objective = objectives.build(tiny("moco", tiny.plain))
    return objective, *jax.jit(objective.init)(jax.random.PRNGKey(1), batch)


def test_no_image_but_its_own_helps_a_query_to_its_key(moco, batch):
    """Which images' pixels reach which embeddings, in training mode: through batch norm alone."""
    objective, params, aux = moco
    embed = jax.jit(lambda images, key: objective.embed(params, aux, {"image": images}, key)[0])
    images, key = batch["image"], KEY
    before = embed(images, key)
    reached = {"query": np.zeros((8, 8), bool), "key": np.zeros((8, 8), bool)}
    for j in range(8):
        after = embed(images.at[j].set(255 - images[j]), key)
        for name in reached:
            change = np.abs(after[name] - before[name]).max(axis=1)
            reached[name][:, j] = change > 1e-6
    np.testing.assert_array_equal(reached["query"], np.kron(np.eye(4), np.ones((2, 2))))
    # Its own image on the diagonal: keys come back in the images' order. Each shares with one image
    # more, drawn anew at every step, and seldom the one that its query shares with.
    assert np.all(reached["key"].sum(axis=1) == 2) and np.all(np.diag(reached["key"]))
    assert not np.array_equal(reached["key"], reached["query"])
    orders = jax.random.split(KEY, 200)
    same = jnp.all(
        jax.lax.map(lambda key: embed(images, key)["key"], orders) == before["key"], axis=(1, 2)
    )
    assert same.mean() < 0.1  # of 105 ways to pair eight images


def test_moco_queue_starts_empty_and_takes_the_keys(moco, batch):
    objective, params, aux = moco
    (value, (new, _)), gradient = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))(
        params, aux, batch, KEY
    )
    # With nothing to be told from, a query learns nothing: not to lie at its key at any price.
    assert value == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    outputs, _ = objective.embed(params, aux, batch, KEY)
    keys = outputs["key"] / jnp.linalg.norm(outputs["key"], axis=1, keepdims=True)
    np.testing.assert_allclose(new["queue"][:8], keys, atol=1e-3)
    np.testing.assert_array_equal(new["queue"][8:], aux["queue"][8:])
    assert new["place"] == 8
    query = jax.random.normal(KEY, (3, keys.shape[1]))
    whole = moco_objective.similarities(query, query, new["queue"])
    few = moco_objective.similarities(query, query, new["queue"][:8])
    np.testing.assert_allclose(
        moco_objective.info_nce(*whole, 0.2), moco_objective.info_nce(*few, 0.2), rtol=1e-6
    )


def test_moco_target_follows_and_gets_no_gradient(moco, batch):
    objective, params, aux = moco
    moved = jax.tree.map(lambda x: x + 1, params)
    after = objective.after_update(moved, aux, 0)
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old + 0.1, atol=1e-5),
        after["target"],
        aux["target"],
    )
    gradient = jax.jit(
        jax.grad(lambda aux: objective.loss(params, aux, batch, KEY)[0], allow_int=True)
    )(aux)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["target"]))


def test_medaug_is_moco_whose_keys_are_of_the_pairs(tiny, moco, batch):
    config = tiny("moco", tiny.plain)
    config["objective"]["name"] = "medaug"
    objective, (plain, params, aux) = objectives.build(config), moco
    other = jnp.roll(batch["image"], 3, axis=0)
    paired = jnp.arange(8) < 6
    pairs = batch | {"pair": other, "paired": paired}
    outputs, _ = jax.jit(objective.embed)(params, aux, pairs, KEY)
    ours, _ = jax.jit(plain.embed)(params, aux, batch, KEY)
    theirs, _ = jax.jit(plain.embed)(params, aux, {"image": other}, KEY)
    np.testing.assert_allclose(outputs["query"], ours["query"], atol=1e-4)
    np.testing.assert_allclose(outputs["key"], theirs["key"], atol=1e-4)
    value, (_, metrics) = objective.loss_from_outputs(outputs, aux)
    np.testing.assert_allclose(metrics["true_pairs"], 0.75, rtol=1e-6)
    mixed = {"query": ours["query"], "key": theirs["key"]}
    np.testing.assert_allclose(value, plain.loss_from_outputs(mixed, aux)[0], rtol=1e-4)
    config["data"]["pairs"] = ""
    with pytest.raises(ValueError, match=r"needs batches of pairs; set config\.data\.pairs"):
        objectives.build(config)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(bn_group=8), "bn_group=8 must divide the 8 images .* into two groups or more"),
        (dict(bn_group=3), "bn_group=3 must divide the 8 images .* Fitting: 2, 4$"),
        (dict(queue_size=7), r"queue_size=7 is smaller than config\.batch_size=8"),
        (dict(momentum=1.1), "momentum is 1.1"),
    ],
)
def test_wrong_moco_fields_are_named(tiny, change, message):
    config = tiny("moco")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_moco_groups_must_divide_what_is_embedded_at_a_time(tiny):
    config = tiny("moco") | dict(microbatch_size=2)
    with pytest.raises(ValueError, match="must divide the 2 images that are embedded at a time"):
        objectives.build(config)


def test_dino_steps_keep_centre_and_teacher(tiny, batch):
    config = tiny("dino", tiny.plain)
    config["views"]["local"]["size"] = 32
    objective = objectives.build(config)
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)
    outputs, embedded = jax.jit(objective.embed)(params, aux, batch, KEY)
    assert outputs["student"].shape == (8, 5, 7) and outputs["teacher"].shape == (8, 2, 7)
    # The teacher starts as the student, and all views are the same here.
    np.testing.assert_allclose(outputs["student"][:, :2], outputs["teacher"], atol=1e-5)
    np.testing.assert_allclose(outputs["student"][:, 2:4], outputs["teacher"], atol=1e-5)
    _, (compared, metrics) = objective.loss_from_outputs(outputs, embedded)
    np.testing.assert_allclose(
        compared["centre"], 0.1 * np.asarray(outputs["teacher"]).mean(axis=(0, 1)), atol=1e-6
    )
    moved = jax.tree.map(lambda x: x + 1, params)
    after = objective.after_update(moved, compared, jnp.int32(0))
    assert after["step"] == 1
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old + 0.1, atol=1e-5),
        after["teacher"]["params"],
        aux["teacher"]["params"],
    )
    _, (_, later) = objective.loss_from_outputs(outputs, after | {"step": jnp.int32(5)})
    np.testing.assert_allclose(metrics["teacher_temperature"], 0.04, rtol=1e-6)
    np.testing.assert_allclose(later["teacher_temperature"], 0.07, rtol=1e-6)


def test_dino_takes_crops_of_two_sizes_through_one_vit(tiny, batch):
    config = tiny("dino", tiny.plain)
    config["model"] = dict(tiny.vit)
    config["views"]["local"]["size"] = 16
    objective = objectives.build(config)
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)
    outputs, _ = jax.jit(objective.embed)(params, aux, batch, KEY)

    # All small crops are the whole image here, at 16 px: four patches, with positions of their own.
    @jax.jit
    def of_small(params, images):
        small = augment_view(KEY, images, config["views"]["local"])
        x = models.build(tiny.vit).apply({"params": params["encoder"]}, small, train=True)
        z = dino.Bottleneck((12,), 5, "float32").apply({"params": params["bottleneck"]}, x, True)
        return dino.Prototypes(7).apply({"params": params["prototypes"]}, z, True)

    expected = of_small(params, batch["image"])
    for crop in range(2, 5):
        np.testing.assert_allclose(outputs["student"][:, crop], expected, atol=1e-5)
    assert np.abs(outputs["student"][:, 2] - outputs["student"][:, 0]).max() > 1e-3

    # Each size alone teaches every parameter, the positions among them, through the resampling.
    def logits(params):
        student = objective.embed(params, aux, batch, KEY)[0]["student"][..., 0]
        return jnp.stack([student[:, 0].sum(), student[:, 2].sum()])

    slopes = jax.jit(jax.jacrev(logits))(params)
    for leaf in jax.tree.leaves(slopes):
        assert np.all(np.isfinite(leaf)) and all(np.any(leaf[size]) for size in range(2))


def test_dinos_head_normalises_all_crops_together(tiny, batch):
    """The official code joins the crops of all sizes before the head."""
    config = tiny("dino", tiny.plain)
    config["model"] = dict(tiny.vit)
    config["views"]["local"]["size"] = 16
    config["objective"]["head_bn"] = True
    objective = objectives.build(config)
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), batch)
    outputs, new = jax.jit(objective.embed)(params, aux, batch, KEY)
    net, features = models.build(tiny.vit), []
    for name, count in (("a", 2), ("local", 3)):  # views are the whole image here

        @jax.jit
        def see(params, images, view=config["views"][name]):
            return net.apply({"params": params}, augment_view(KEY, images, view), train=True)

        seen = see(params["encoder"], batch["image"])
        features.append(np.repeat(np.asarray(seen)[:, None], count, axis=1))
    together = np.concatenate(features, axis=1)  # [8 images, 5 crops, d]
    head = params["bottleneck"]
    h = together @ head["dense0"]["kernel"] + head["dense0"]["bias"]
    mean, var = h.mean((0, 1)), h.var((0, 1))
    statistics = new["batch_stats"]["bottleneck"]["bn0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * mean, atol=1e-5)
    h = jax.nn.gelu((h - mean) / np.sqrt(var + 1e-5), approximate=False)
    z = h @ head["dense1"]["kernel"] + head["dense1"]["bias"]
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    kernel = np.asarray(params["prototypes"]["kernel"])
    expected = z @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(outputs["student"], expected, atol=1e-4)


def test_dinos_prototypes_start_as_long_as_torchs_linear_makes_them():
    kernel = dino.Prototypes(500).init(KEY, jnp.zeros((1, 256)), True)["params"]["kernel"]
    lengths = np.linalg.norm(kernel, axis=0)
    assert lengths.mean() == pytest.approx(3**-0.5, rel=0.01)
    assert np.abs(kernel).max() <= 256**-0.5


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(teacher_temperature=(0.04,)), r"teacher_temperature is \(0\.04,\); it needs"),
        (dict(num_local=-1), "num_local is -1"),
        (dict(tau_base=2), "tau_base is 2; it is in"),
        (dict(prototypes=0), "prototypes=0 must be at least 1"),
    ],
)
def test_wrong_dino_fields_are_named(tiny, change, message):
    config = tiny("dino")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_dino_needs_its_three_views(tiny):
    config = tiny("dino")
    config["views"]["b"]["size"] = 48
    with pytest.raises(ValueError, match="have sizes 32 and 48; DINO needs one size"):
        objectives.build(config)
    del config["views"]["local"]
    with pytest.raises(ValueError, match=r"config\.views lacks 'local'"):
        objectives.build(config)

"""DINOv2 against NumPy: balanced assignments, KoLeo, masks, the loss; who learns; wrong fields."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, objectives
from cxr_jax.augment.views import augment_view
from cxr_jax.objectives import dinov2

KEY = jax.random.PRNGKey(3)
QUICKLY = {"xla_backend_optimization_level": 0}


def balanced(logits):
    """Sinkhorn-Knopp as the paper's: prototypes' masses, then samples', three times."""
    q = np.exp(np.asarray(logits, np.float64)).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * q.shape[0]
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def spread_of(embeddings):
    x = np.asarray(embeddings, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    apart = np.linalg.norm(x[:, None] - x, axis=2) + 9 * np.eye(len(x))
    return -np.log(apart.min(axis=1)).mean()


def cross_entropy(student, target, temperature):
    logits = np.asarray(student, np.float64) / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    return -(target * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)


def test_assignments_of_valid_rows_are_balanced_whatever_the_others_are():
    logits = np.random.default_rng(0).normal(0, 5, (12, 4)).astype(np.float32)
    valid = np.arange(12) % 3 > 0
    found = dinov2.sinkhorn(jnp.asarray(logits), jnp.asarray(valid))
    np.testing.assert_allclose(found[valid], balanced(logits[valid]), rtol=2e-4, atol=1e-6)
    alike = dinov2.sinkhorn(jnp.zeros((6, 3)), jnp.ones(6, bool))
    np.testing.assert_allclose(alike, 1 / 3, rtol=1e-6)
    far = dinov2.sinkhorn(1000 * jnp.asarray(logits), jnp.ones(12, bool))
    assert np.all(np.isfinite(far))


def test_masks_hide_what_they_count_in_blocks():
    draw = jax.jit(lambda key: dinov2.draw_masks(key, 500, 14, (0.1, 0.5)))
    chosen, counts = map(np.asarray, draw(KEY))
    assert chosen.shape == counts.shape == (500, 98)
    number = counts.sum(axis=1)
    assert number.min() >= 19 and number.max() <= 98 and 52 < number.mean() < 65
    grid = np.zeros((500, 196), bool)
    for image, (patches, how_many) in enumerate(zip(chosen, number)):
        assert len(set(patches)) == 98
        grid[image, patches[:how_many]] = True
    grid = grid.reshape(500, 14, 14)
    # Of a hidden patch's neighbours more are hidden than if patches were drawn one by one.
    beside = (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, 1:].sum()
    assert beside > grid.mean() + 0.25
    assert grid.mean(axis=0).min() > 0.005  # corners lie in few blocks


def test_loss_is_numpys_and_hidden_patches_are_seen_by_the_teacher_alone(tiny):
    config = tiny("dinov2", tiny.plain)
    config["views"]["local"]["size"] = 16
    objective = objectives.build(config)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), dtype=np.uint8)
    batch = {"image": jnp.asarray(images)}
    init = jax.jit(objective.init, compiler_options=QUICKLY)
    params, aux = init(jax.random.PRNGKey(1), batch)
    rng = np.random.default_rng(2)

    def moved(tree):
        return jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), tree)

    params, aux["teacher"]["params"] = moved(params), moved(aux["teacher"]["params"])
    fixed = aux["teacher"]["params"]

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(params, teacher, images):
        def loss(params, teacher):
            changed = aux | {"teacher": aux["teacher"] | {"params": teacher}}
            outputs, after = objective.embed(params, changed, {"image": images}, KEY)
            value, (_, metrics) = objective.loss_from_outputs(outputs, after)
            return value, (outputs, metrics)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, teacher)

    (value, (outputs, metrics)), (online, still) = run(params, fixed, batch["image"])
    # The loss, from the outputs.
    teacher, student = outputs["teacher"], outputs["student"]
    assert teacher.shape == (8, 2, 7) and student.shape == (8, 4, 7)
    target = balanced(np.asarray(teacher, np.float64).reshape(16, 7) / 0.04).reshape(8, 2, 7)
    pairs = [
        cross_entropy(student[:, s], target[:, t], 0.1).mean()
        for t in range(2)
        for s in range(4)
        if s != t
    ]
    weight = np.asarray(outputs["patch_weight"])
    np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-6)
    hidden, of_patches = weight > 0, np.zeros((8, 8, 7))
    asked = np.asarray(outputs["patch_teacher"], np.float64)[hidden] / 0.04
    of_patches[hidden] = balanced(asked)
    patches = (weight * cross_entropy(outputs["patch_student"], of_patches, 0.1)).sum() / 16
    spread = spread_of(outputs["class"][:, 0]) + spread_of(outputs["class"][:, 1])
    np.testing.assert_allclose(metrics["image_loss"], np.mean(pairs), rtol=1e-4)
    np.testing.assert_allclose(metrics["patch_loss"], patches, rtol=1e-4)
    np.testing.assert_allclose(metrics["koleo"], spread, rtol=1e-4)
    np.testing.assert_allclose(value, np.mean(pairs) + patches + 0.1 * spread, rtol=1e-4)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(online))  # the mask token too
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(still))
    # The outputs, from the encoder: of the crop without hidden patches, and of the teacher.
    keys = jax.random.split(KEY, 5)
    second = np.asarray(jax.random.bernoulli(keys[4], shape=(8,))).astype(int)
    draw = jax.jit(lambda key: dinov2.draw_masks(key, 8, 4, (0.2, 0.5)), compiler_options=QUICKLY)
    chosen, counts = map(np.asarray, draw(keys[3]))
    np.testing.assert_array_equal(counts, hidden)
    encoder, view = models.build(config["model"]), config["views"]["a"]

    def tokens(encoder, images):
        return encoder.encode(encoder.embed(images).reshape(8, 16, -1))

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def of_the_whole(student, teacher, images):
        whole = augment_view(KEY, images, view)
        plain = encoder.apply({"params": student}, whole, train=True)
        return plain, encoder.apply({"params": teacher}, whole, method=tokens)[:, 1:]

    plain, known = of_the_whole(params["encoder"], fixed["encoder"], batch["image"])
    rows = np.arange(8)
    np.testing.assert_allclose(outputs["class"][rows, 1 - second], plain, atol=1e-4)
    assert np.abs(outputs["class"][rows, second] - plain).max(axis=1).min() > 1e-3

    known = np.take_along_axis(np.asarray(known), chosen[..., None], axis=1)
    head = fixed["patch_bottleneck"]
    x = known @ head["dense0"]["kernel"] + head["dense0"]["bias"]
    x = np.asarray(jax.nn.gelu(x, approximate=False)) @ head["dense1"]["kernel"]
    x = x + head["dense1"]["bias"]
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    kernel = np.asarray(fixed["patch_prototypes"]["kernel"])
    np.testing.assert_allclose(
        outputs["patch_teacher"], x @ (kernel / np.linalg.norm(kernel, axis=0)), atol=1e-4
    )
    # Other pixels behind the masks: the student's patches do not know, the teacher's do.
    covered = np.zeros((8, 16), bool)
    covered[rows[:, None], chosen] = counts
    covered = covered.reshape(8, 4, 4).repeat(8, axis=1).repeat(8, axis=2)[..., None]
    other = run(params, fixed, jnp.asarray(np.where(covered, 255 - images, images)))[0][1][0]
    np.testing.assert_array_equal(other["class"][rows, second], outputs["class"][rows, second])
    np.testing.assert_array_equal(other["patch_student"], outputs["patch_student"])
    assert np.abs(other["patch_teacher"] - outputs["patch_teacher"]).max(axis=(1, 2)).min() > 1e-3


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(mask_ratio=(0.5, 0.1)), r"mask_ratio is \(0\.5, 0\.1\); it must be \(fewest, most\)"),
        (dict(koleo_weight=-1), "koleo_weight is -1; it must be 0 or more"),
        (dict(centre_momentum=0.9), "has no field 'centre_momentum'"),
        (dict(teacher_temperature=(0.04,)), "teacher_temperature is .*; it needs"),
    ],
)
def test_wrong_dinov2_fields_are_named(tiny, change, message):
    config = tiny("dinov2")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_dinov2_needs_a_vit_with_a_class_token(tiny):
    config = tiny("dinov2")
    config["model"]["pooling"] = "mean"
    with pytest.raises(ValueError, match=r"config\.model needs pooling='class'"):
        objectives.build(config)
    config["model"] = dict(name="resnet", variant="small")
    with pytest.raises(ValueError, match=r"config\.model\.name must be 'vit'"):
        objectives.build(config)

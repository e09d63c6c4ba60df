"""I-JEPA against NumPy: blocks, predictions and the loss; who follows whom; wrong fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from cxr_jax import objectives
from cxr_jax.models._positions import sincos
from cxr_jax.objectives import ijepa

KEY = jax.random.PRNGKey(3)


@pytest.fixture
def noisy():
    """Images that differ in every pixel."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), dtype=np.uint8)
    return {"image": jnp.asarray(images)}


def test_blocks_have_their_shapes_and_the_context_none_of_their_patches():
    targets = ijepa.block_shapes(14, (0.15, 0.2), (0.75, 1.5))
    contexts = ijepa.block_shapes(14, (0.85, 1.0), (1, 1))
    assert contexts.tolist() == [[13, 13], [14, 14]]
    draw = jax.jit(lambda key: ijepa.draw_blocks(key, 400, 14, 4, targets, contexts))
    context, blocks = map(np.asarray, draw(KEY))
    assert context.shape == (400, 196 - 4 * 30) and blocks.shape == (400, 4, 30)
    for visible, hidden in zip(context, blocks):
        assert len(set(visible)) == 76 and not set(visible) & set(hidden.ravel())
    rows, columns = np.divmod(blocks, 14)
    heights, widths = (np.ptp(x, axis=2) + 1 for x in (rows, columns))
    # Of larger blocks the first 30 patches, row by row.
    assert {*zip(heights.ravel(), widths.ravel())} == {(5, 6), (6, 5)}
    assert np.all(np.diff(blocks, axis=2) > 0) and np.all(heights * widths == 30)
    seen = [np.bincount(x.ravel(), minlength=196) for x in (context, blocks)]
    assert min(seen[0].min(), seen[1].min()) > 0
    assert np.mean(context == np.asarray(draw(jax.random.PRNGKey(4))[0])) < 0.05


def numpy_vit(params, patches, heads, prefix):
    """The blocks and the last norm on patches [b n d], in float64."""

    def norm(p, x):
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def dense(p, x):
        return x @ p["kernel"] + p["bias"]

    x = np.concatenate([np.broadcast_to(prefix, (len(patches), *prefix.shape)), patches], axis=1)
    for name in sorted(name for name in params if name.startswith("block_")):
        p = params[name]
        b, n, d = x.shape
        qkv = dense(p["qkv"], norm(p["norm1"], x)).reshape(b, n, 3, heads, d // heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        weights = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(d // heads))
        weights /= weights.sum(axis=-1, keepdims=True)
        x = x + dense(p["proj"], (weights @ v).transpose(0, 2, 1, 3).reshape(b, n, d))
        y = dense(p["fc1"], norm(p["norm2"], x))
        x = x + dense(p["fc2"], y * (1 + erf(y / np.sqrt(2))) / 2)
    return norm(params["norm"], x)


def test_loss_is_numpys_and_only_the_student_and_the_predictor_learn(tiny, noisy):
    config = tiny("ijepa", tiny.plain)
    objective = objectives.build(config)
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), noisy)
    rng = np.random.default_rng(2)

    def moved(tree):
        return jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), tree)

    params, aux["teacher"]["params"] = moved(params), moved(aux["teacher"]["params"])
    value, slopes = jax.jit(
        jax.value_and_grad(lambda p, aux: objective.loss(p, aux, noisy, KEY)[0], argnums=(0, 1))
    )(params, aux)
    targets = ijepa.block_shapes(4, (0.25, 0.4), (0.5, 1.5))
    contexts = ijepa.block_shapes(4, (0.5, 1.0), (1, 1))
    block_key = jax.random.split(KEY)[1]
    draw = jax.jit(lambda key: ijepa.draw_blocks(key, 8, 4, 2, targets, contexts))
    context, blocks = map(np.asarray, draw(block_key))
    assert context.shape == (8, 8) and blocks.shape == (8, 2, 4)

    student, teacher, predictor = jax.tree.map(
        lambda x: np.asarray(x, np.float64),
        (params["encoder"], aux["teacher"]["params"]["encoder"], params["predictor"]),
    )
    pixels = np.asarray(noisy["image"], np.float64) / 255
    pixels = pixels.reshape(8, 4, 8, 4, 8).swapaxes(2, 3).reshape(8, 16, 64)

    def encode(p, chosen):
        kernel = p["patch_embed"]["kernel"].reshape(64, -1)
        x = (pixels - 0.5) / 0.25 @ kernel + p["patch_embed"]["bias"] + p["positions"]
        x = np.take_along_axis(x, chosen[..., None], axis=1)
        return numpy_vit(p, x, 1, p["cls"][None])

    whole = encode(teacher, np.tile(np.arange(16), (8, 1)))[:, 1:]
    whole = whole - whole.mean(axis=-1, keepdims=True)
    whole /= np.sqrt(whole.var(axis=-1, keepdims=True) + 1e-5)
    seen, places, losses = encode(student, context), sincos(4, 4, 32).reshape(16, 32), []
    x = seen @ predictor["embed"]["kernel"] + predictor["embed"]["bias"]
    x[:, 1:] += places[context]
    for t in range(2):
        asked = predictor["mask_token"] + places[blocks[:, t]]
        tokens = np.concatenate([x, asked], axis=1)
        out = numpy_vit(predictor, tokens, 2, np.zeros((0, 32)))[:, -4:]
        out = out @ predictor["features"]["kernel"] + predictor["features"]["bias"]
        off = np.abs(out - np.take_along_axis(whole, blocks[:, t, :, None], axis=1))
        losses.append(np.where(off < 1, off**2 / 2, off - 0.5).mean())
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-4)
    online, fixed = slopes
    assert not np.any(online["encoder"].pop("positions"))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(online))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(fixed))


def test_teacher_follows_ever_more_slowly_and_starts_as_the_student(tiny, noisy):
    config = tiny("ijepa")
    config["model"]["variant"] = "64x2"
    objective = objectives.build(config)
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), noisy)
    exported = objective.exported(params, aux)["params"]
    jax.tree.map(np.testing.assert_array_equal, exported, params["encoder"])
    # Block k's last matrices are divided by sqrt(2k), k from 1.
    for k in range(2):
        first, last = (params["encoder"][f"block_{k}"][x]["kernel"] for x in ("fc1", "fc2"))
        assert np.std(last) / np.std(first) == pytest.approx((2 * k + 2) ** -0.5, rel=0.03)
    moved = jax.tree.map(lambda x: x + 1, params)
    for step, rate in ((0, 0.1), (5, 0.05), (10, 0.0)):
        after = objective.after_update(moved, aux, jnp.int32(step))
        jax.tree.map(
            lambda new, old: np.testing.assert_allclose(new, old + rate, atol=1e-6),  # noqa: B023
            objective.exported(params, after)["params"],
            exported,
        )


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(target_scale=(0.01, 0.02)), r"target_scale is .* a block of a view's 4 x 4 patches"),
        (dict(context_scale=(0.9, 0.95)), "context_scale is .* a square of a view's 4 x 4 patches"),
        (dict(num_targets=4), "num_targets is 4; it must be so few .* of 4 leave a context"),
        (dict(target_ratio=(1,)), r"target_ratio is \(1,\); it must be \(min, max\)"),
        (dict(predictor_heads=3), "predictor_width is 32; it must .* of predictor_heads=3"),
        (dict(tau_base=1.5), "tau_base is 1.5; it must be in"),
    ],
)
def test_wrong_ijepa_fields_are_named(tiny, change, message):
    config = tiny("ijepa")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_ijepa_needs_a_vit(tiny):
    config = tiny("ijepa")
    config["model"] = dict(name="resnet", variant="small")
    with pytest.raises(ValueError, match=r"config\.model\.name must be 'vit'"):
        objectives.build(config)

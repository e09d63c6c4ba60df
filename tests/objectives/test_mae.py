"""MAE against PyTorch as the paper's code has it, and what each side may see of an image."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, objectives
from cxr_jax.models._positions import sincos
from cxr_jax.objectives import mae

KEY = jax.random.PRNGKey(3)
PATCHES, VISIBLE = 16, 4


@pytest.fixture
def noisy():
    """Images that differ in every pixel."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), dtype=np.uint8)
    return {"image": jnp.asarray(images)}


@pytest.fixture
def plain(tiny, noisy):
    objective = objectives.build(tiny("mae", tiny.plain))
    params, aux = jax.jit(objective.init)(jax.random.PRNGKey(1), noisy)
    return objective, params, aux


def orders(images=8):
    """Those that `embed` draws from KEY."""
    return np.asarray(mae.draw_orders(jax.random.split(KEY)[1], images, PATCHES))


def hidden_pixels(order):
    """[b 32 32 1], true where no visible patch lies."""
    seen = np.zeros((len(order), PATCHES), bool)
    np.put_along_axis(seen, order[:, :VISIBLE], True, axis=1)
    return ~seen.reshape(-1, 4, 4).repeat(8, axis=1).repeat(8, axis=2)[..., None]


def test_orders_are_every_images_own_and_the_keys():
    order = mae.draw_orders(KEY, 2000, PATCHES)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(PATCHES), (2000, 1)))
    np.testing.assert_array_equal(order, mae.draw_orders(KEY, 2000, PATCHES))
    assert np.mean(order == mae.draw_orders(jax.random.PRNGKey(4), 2000, PATCHES)) < 0.1
    assert len(np.unique(order[:, :VISIBLE], axis=0)) > 1900
    # Every patch is visible equally often: 500 times, with a deviation of 19.
    counts = np.bincount(np.asarray(order)[:, :VISIBLE].ravel(), minlength=PATCHES)
    assert np.abs(counts - 500).max() < 100


def test_drawing_nothing_costs_one_and_flat_patches_nothing():
    images = jax.random.uniform(KEY, (4, 32, 32, 1))
    np.testing.assert_allclose(jnp.mean(mae.targets(images, 8) ** 2), 63 / 64, rtol=1e-3)
    halved = mae.targets(0.3 + images / 2, 8)
    np.testing.assert_allclose(halved, mae.targets(images, 8), atol=1e-3)
    flat = jax.value_and_grad(lambda x: jnp.sum(mae.targets(x, 8) ** 2))(jnp.full_like(images, 0.7))
    assert flat[0] < 1e-3 and np.all(np.isfinite(flat[1]))


def test_hidden_pixels_do_not_reach_the_encoder(plain, noisy):
    objective, params, aux = plain
    jitted = jax.jit(lambda params, images: objective.embed(params, aux, {"image": images}, KEY)[0])
    embed = partial(jitted, params)
    images, where = noisy["image"], hidden_pixels(orders())
    assert where.mean() == 0.75
    before = embed(images)
    behind = embed(jnp.where(where, 255 - images, images))
    np.testing.assert_array_equal(behind["embedding"], before["embedding"])
    assert np.all(behind["error"] != before["error"])
    # One pixel of a visible patch does, in its own image.
    row, column = np.argwhere(~where[2, :, :, 0])[5]
    seen = embed(images.at[2, row, column].add(100))
    changed = np.abs(seen["embedding"] - before["embedding"]).max(axis=1) > 1e-5
    np.testing.assert_array_equal(changed, np.arange(8) == 2)


def test_visible_pixels_are_no_target(plain, noisy):
    objective, params, aux = plain
    # A decoder that draws nothing at all: what is left of the loss is its target.
    params["decoder"]["pixels"] = jax.tree.map(jnp.zeros_like, params["decoder"]["pixels"])
    jitted = jax.jit(lambda params, images: objective.embed(params, aux, {"image": images}, KEY)[0])

    def embed(images):
        return jitted(params, images)["error"]

    images, where = noisy["image"], hidden_pixels(orders())
    np.testing.assert_allclose(embed(images), 63 / 64, rtol=1e-3)
    np.testing.assert_allclose(embed(jnp.where(where, images, 0)), embed(images), rtol=1e-5)
    assert np.all(embed(jnp.where(where, 0, images)) < 1e-3)


def test_positions_are_fixed_and_sines_and_cosines(plain, noisy):
    objective, params, aux = plain
    table = sincos(3, 5, 12)
    for row, column, k in np.ndindex(3, 5, 3):
        rate = 10_000 ** (-k / 3)
        expected = [f(x * rate) for x in (column, row) for f in (np.sin, np.cos)]
        np.testing.assert_allclose(table[row, column, k::3], expected, atol=1e-6)
    np.testing.assert_array_equal(params["encoder"]["positions"], sincos(4, 4, 64).reshape(16, 64))
    gradient = jax.jit(jax.grad(lambda p: objective.loss(p, aux, noisy, KEY)[0]))(params)
    still = gradient["encoder"].pop("positions")
    assert not np.any(still)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(mask_ratio=0.99), "mask_ratio is 0.99; it must be such that of a view's 16 patches"),
        (dict(mask_ratio=0.0), "mask_ratio is 0.0; it must be such"),
        (dict(mask_ratio=1.5), "mask_ratio is 1.5"),
        (
            dict(decoder_heads=3),
            "decoder_width is 32; it must .* of decoder_heads=3",
        ),
        (dict(decoder_blocks=0), "decoder_blocks=0 must be at least 1"),
        (dict(norm=True), "has no field 'norm'"),
    ],
)
def test_wrong_mae_fields_are_named(tiny, change, message):
    config = tiny("mae")
    config["objective"] |= change
    with pytest.raises(ValueError, match=message):
        objectives.build(config)


def test_mae_needs_a_vit_and_one_view_of_whole_patches(tiny):
    config = tiny("mae")
    config["views"]["a"]["size"] = 30
    with pytest.raises(ValueError, match=r"views\.a\.size=30 is no multiple of .*patch=8"):
        objectives.build(config)
    config["views"]["b"] = config["views"]["a"]
    with pytest.raises(ValueError, match=r"config\.views has no field 'b'"):
        objectives.build(config)
    del config["views"]["a"], config["views"]["b"]
    with pytest.raises(ValueError, match=r"config\.views lacks 'a'"):
        objectives.build(config)
    config["model"] = dict(name="resnet", variant="small")
    with pytest.raises(ValueError, match=r"config\.model\.name must be 'vit'"):
        objectives.build(config)


def torch_mae(torch, params, model):
    """The official forward pass on PyTorch's own layers: (pixels, order) -> (drawings, tokens)."""

    def tensor(array):
        return torch.tensor(np.asarray(array), dtype=torch.float64)

    def layer(p, heads):
        width = len(p["norm1"]["scale"])
        made = torch.nn.TransformerEncoderLayer(
            *(width, heads, 4 * width, 0.0, "gelu"),
            **dict(layer_norm_eps=1e-6, batch_first=True, norm_first=True, dtype=torch.float64),
        )
        names = {
            **{"self_attn.in_proj_": "qkv", "self_attn.out_proj.": "proj"},
            **{"linear1.": "fc1", "linear2.": "fc2", "norm1.": "norm1", "norm2.": "norm2"},
        }
        state = {}
        for theirs, ours in names.items():
            state[theirs + "bias"] = tensor(p[ours]["bias"])
            kernel = p[ours]["scale"] if "norm" in ours else p[ours]["kernel"].T
            state[theirs + "weight"] = tensor(kernel)
        made.load_state_dict(state)
        return made

    def dense(p, x):
        return x @ tensor(p["kernel"]) + tensor(p["bias"])

    def norm(p, x):
        scale, bias = tensor(p["scale"]), tensor(p["bias"])
        return torch.nn.functional.layer_norm(x, scale.shape, scale, bias, 1e-6)

    def forward(pixels, order):
        e, d = params["encoder"], params["decoder"]
        order = torch.tensor(order)
        x = dense(
            {
                "kernel": e["patch_embed"]["kernel"].reshape(64, -1),
                "bias": e["patch_embed"]["bias"],
            },
            (pixels - model.mean[0]) / model.std[0],
        )
        x = x + tensor(e["positions"])
        width = x.shape[-1]
        x = torch.gather(x, 1, order[:, :VISIBLE, None].expand(-1, -1, width))
        x = torch.cat([tensor(e["cls"]).expand(len(x), 1, -1), x], dim=1)
        for i in range(model.num_blocks):
            x = layer(e[f"block_{i}"], 1)(x)
        tokens = norm(e["norm"], x)
        x = dense(d["embed"], tokens)
        masks = tensor(d["mask_token"]).expand(len(x), PATCHES - VISIBLE, -1)
        shuffled = torch.cat([x[:, 1:], masks], dim=1)
        restore = torch.argsort(order, dim=1)[..., None].expand(-1, -1, x.shape[-1])
        patches = torch.gather(shuffled, 1, restore) + tensor(sincos(4, 4, 32).reshape(16, 32))
        x = torch.cat([x[:, :1], patches], dim=1)
        for i in range(2):
            x = layer(d[f"block_{i}"], 2)(x)
        return dense(d["pixels"], norm(d["norm"], x))[:, 1:], tokens

    return forward


def test_loss_is_pytorchs_whatever_is_drawn_for_visible_patches(tiny, plain, noisy):
    torch = pytest.importorskip("torch")
    objective, params, aux = plain
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), params)
    value, _ = jax.jit(objective.loss)(params, aux, noisy, KEY)
    outputs, _ = jax.jit(objective.embed)(params, aux, noisy, KEY)
    images = torch.tensor(np.asarray(noisy["image"]) / 255)
    pixels = images.reshape(8, 4, 8, 4, 8).permute(0, 1, 3, 2, 4).reshape(8, 16, 64)
    model = models.build(tiny("mae")["model"])
    drawn, tokens = torch_mae(torch, params, model)(pixels, orders())
    mean, variance = pixels.mean(dim=-1, keepdim=True), pixels.var(dim=-1, keepdim=True)
    target = (pixels - mean) / (variance + 1e-6) ** 0.5
    mask = torch.ones(8, PATCHES).scatter(1, torch.tensor(orders()[:, :VISIBLE]), 0)
    for drawing in (drawn, drawn + 1000 * (1 - mask[..., None])):
        expected = (((drawing - target) ** 2).mean(dim=-1) * mask).sum() / mask.sum()
        np.testing.assert_allclose(value, expected.detach(), rtol=1e-4)
    np.testing.assert_allclose(outputs["embedding"], tokens[:, 0].detach(), atol=1e-4)

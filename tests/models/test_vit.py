import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import xla
from cxr_jax.models import vit
from cxr_jax.models._transformer import attend

TINY = {"variant": "64x2", "patch": 8, "image_size": 32}
evaluate = jax.jit(
    lambda net, variables, images: net.apply(variables, images, False), static_argnums=0
)
call = jax.jit(
    lambda net, method, variables, x: net.apply(variables, x, method=method),
    static_argnums=(0, 1),
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _images(batch=2, height=32, width=32):
    return jax.random.uniform(jax.random.key(0), (batch, height, width, 1))


def _variables(net):
    """Random everywhere, so that no part can be left out unseen."""
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), _images())
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), shapes)


@pytest.mark.parametrize(
    ("options", "total"),
    [
        # As their publishers count them: DeiT-S, DINOv2 ViT-S/14 at 518 px, ViT-B/16, ViT-L/16
        # (torchvision), without classifiers; their class token has a position of its own.
        ({"variant": "S"}, 21_665_664),
        ({"variant": "S", "patch": 14, "image_size": 518, "layer_scale": 1e-5}, 22_056_576 - 384),
        ({"variant": "B"}, 86_567_656 - 769_000),
        ({"variant": "L"}, 304_326_632 - 1_025_000),
    ],
)
def test_as_many_parameters_as_published(options, total):
    net = vit.make(**options, **IMAGENET)
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), _images())
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count + net.width == total


@pytest.mark.parametrize(
    "options",
    [
        {"registers": 2, "layer_scale": 0.1},
        {"class_token": False, "pooling": "mean"},
        {"pre_norm": True, "projection": 5, "dtype": "bfloat16"},
        {"rope": "dinov3", "registers": 1, "activation": "swiglu"},
        {"rope": "eva", "mlp_norm": True, "class_token": False, "pooling": "attention"},
    ],
)
def test_features_are_the_pooled_maps_and_do_not_depend_on_the_batch(options):
    net = vit.make(**TINY, **options)
    images, variables = _images(3, 48, 32), _variables(net)
    features = evaluate(net, variables, images)
    assert features.dtype == jnp.float32
    maps = jax.jit(lambda v, x: net.apply(v, x, False, method="maps"))(variables, images)
    prefix = net.class_token + net.registers
    assert maps.shape == (3, 6, 4, 64 * (1 + prefix)) and maps.dtype == jnp.float32
    tolerance = 0.02 if net.dtype == "bfloat16" else 1e-5
    pooled = call(net, "pool", variables, maps)
    np.testing.assert_allclose(pooled, features, atol=tolerance)
    alone = evaluate(net, variables, images.at[:2].set(0))
    np.testing.assert_allclose(alone[2], features[2], atol=tolerance)
    if prefix:
        # Behind the patches the same at every place; gradients go to the patches alone.
        assert (maps[..., 64:] == maps[:, :1, :1, 64:]).all()
        gradient = jax.grad(lambda m: call(net, "pool", variables, m).sum())(maps)
        assert np.abs(gradient[..., :64]).max() > 0 and not gradient[..., 64:].any()


@pytest.mark.parametrize("width", [128, 192])
def test_blocks_narrower_than_published_ones_are_glorots(width):
    net = vit.make(f"{width}x1", heads=2, patch=8, image_size=8)
    params = jax.jit(lambda: net.init(jax.random.key(0), _images(1, 8, 8), False))()["params"]
    for name in ("qkv", "proj", "fc1", "fc2"):
        kernel = params["block_0"][name]["kernel"]
        expected = np.sqrt(2 / sum(kernel.shape)) if width == 128 else 0.02 * 0.8796  # cut at two
        np.testing.assert_allclose(kernel.std(), expected, rtol=0.03)


def test_rematerialised_blocks_have_the_same_gradients():
    images = _images()

    def gradients(remat):
        net = vit.make(**TINY, remat=remat)
        loss = jax.jit(jax.grad(lambda v: (net.apply(v, images, True) ** 2).sum()))
        return loss(_variables(net))

    plain, again = gradients(False), gradients(True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, again)


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters():
    net, half = vit.make(**TINY), vit.make(**TINY, dtype="bfloat16")
    shapes = jax.eval_shape(lambda x: half.init(jax.random.key(0), x, False), _images())
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    variables = _variables(net)
    full, low = evaluate(net, variables, _images()), evaluate(half, variables, _images())
    assert 0 < np.linalg.norm(low - full) < 0.05 * np.linalg.norm(full)


def test_encoding_all_patches_or_some_of_them():
    net = vit.make(**TINY, registers=1)
    variables, images = _variables(net), _images()
    patches = call(net, "embed", variables, images).reshape(2, 16, 64)
    tokens = call(net, "encode", variables, patches)
    assert tokens.shape == (2, 18, 64)
    np.testing.assert_allclose(tokens[:, 0], evaluate(net, variables, images), atol=1e-5)
    # Positions are in the patches: their order does not matter, their absence does.
    order = np.random.default_rng(0).permutation(16)
    mixed = call(net, "encode", variables, patches[:, order])
    np.testing.assert_allclose(mixed[:, 2:], tokens[:, 2:][:, order], atol=1e-4)
    some = call(net, "encode", variables, patches[:, order[:4]])
    assert some.shape == (2, 6, 64)
    assert np.abs(some[:, 0] - tokens[:, 0]).max() > 1e-3


def test_patches_with_rotary_positions_may_come_in_any_order_with_their_angles():
    net = vit.make(**TINY | {"variant": "16x1", "heads": 1}, rope="dinov3", pooling="mean")
    variables, images = _variables(net), _images()
    assert "positions" not in variables["params"]
    patches = call(net, "embed", variables, images).reshape(2, 16, 16)
    order, angles = np.random.default_rng(0).permutation(16), net.angles(4, 4)
    encode = jax.jit(lambda v, x, a: net.apply(v, x, a, method="encode"))
    tokens = encode(variables, patches, angles)
    np.testing.assert_allclose(tokens[:, 1:].mean(1), evaluate(net, variables, images), atol=1e-5)
    each = jnp.broadcast_to(angles[order], (2, 16, 8))
    mixed = encode(variables, patches[:, order], each)
    np.testing.assert_allclose(mixed[:, 1:], tokens[:, 1:][:, order], atol=1e-4)
    assert np.abs(encode(variables, patches[:, order], angles)[:, 0] - tokens[:, 0]).max() > 1e-3
    with pytest.raises(ValueError, match="needs `angles` beside its patches"):
        net.apply(variables, patches, method="encode")


def test_depth_follows_the_blocks():
    net = vit.make(**TINY, projection=3, pre_norm=True, registers=1, layer_scale=0.1)
    names = _variables(net)["params"]
    assert {name: net.depth(name) for name in names} == {
        **{"patch_embed": 0, "positions": 0, "cls": 0, "register_tokens": 0, "norm_pre": 0},
        **{"block_0": 1, "block_1": 2, "norm": 2, "project": 2},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "G"}, "no ViT variant 'G' of 0 heads; there are S, B, L, H, or WIDTHxBLOCKS"),
        ({"variant": "100x2"}, "no ViT variant '100x2' of 0 heads"),
        ({"variant": "B", "heads": 7}, "no ViT variant 'B' of 7 heads"),
        ({"variant": "S", "patch": 14, "image_size": 225}, "image_size=225 is no multiple"),
        ({"variant": "S", "class_token": False}, "needs class_token=True"),
        ({"variant": "S", "pooling": "first_two"}, "needs class_token=True and registers"),
        (
            {"variant": "S", "pooling": "max"},
            "pooling is 'max'; use 'class' or 'first_two' or 'mean'",
        ),
        ({"variant": "S", "rope": "x"}, "rope is 'x'; use '' or 'dinov3' or 'eva'"),
        ({"variant": "64x1", "heads": 32, "rope": "eva"}, "heads of a multiple of 4 channels"),
        ({"variant": "S", "dtype": "float16"}, "dtype is 'float16'"),
        ({"variant": "S", "mean": (0.5, 0.5)}, "1 or 3 entries each, not 2 and 1"),
    ],
)
def test_arguments_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        vit.make(**arguments)


@pytest.mark.parametrize("lengths", [(4, 4), (5, 5), (5, 4), (4, 7)])
@pytest.mark.parametrize("kind", ["all", "masked", "causal"])
def test_attention_padded_for_a_gpus_kernel_is_that_of_the_tokens(kind, lengths, monkeypatch):
    rng = np.random.default_rng(0)
    n, m = lengths if kind != "causal" else lengths[:1] * 2
    shapes = ((2, n, 3, 8), (2, m, 3, 8), (2, m, 3, 8))
    parts = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]
    mask = jnp.asarray(rng.random((2, 1, m)) < 0.6).at[..., 0].set(True)
    fields = {"all": {}, "masked": {"mask": mask}, "causal": {"causal": True}}[kind]

    def value(*parts):
        return (attend(*parts, **fields).astype(jnp.float32) ** 2).sum()

    expected = jax.value_and_grad(value, (0, 1, 2))(*parts)
    general, seen = jax.nn.dot_product_attention, []

    def kernel(*parts, implementation=None, **fields):  # cuDNN's is not here: JAX's, as strict
        seen.append(implementation)
        assert all(part.shape[1] % 2 == 0 for part in parts)
        return general(*parts, **fields)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    with xla.made_for("gpu"):
        found = jax.value_and_grad(value, (0, 1, 2))(*parts)
    assert set(seen) == {"cudnn"}
    for ours, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=0.02, atol=0.02)

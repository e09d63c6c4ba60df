"""What ConvNeXts and Swins are, beside test_libraries.py, which compares them with timm's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax.models import convnext, swin


def test_windows_attend_where_places_lay_together_before_the_shift():
    rows, columns, size = 3, 2, 4
    places = np.stack(np.meshgrid(np.arange(12), np.arange(8), indexing="ij"), axis=-1)
    for shift in ((2, 2), (2, 0), (0, 2)):
        moved = np.roll(places, (-shift[0], -shift[1]), axis=(0, 1))
        windows = moved.reshape(rows, size, columns, size, 2).swapaxes(1, 2).reshape(-1, 16, 2)
        within = np.stack(np.divmod(np.arange(16), size), axis=1)
        # Two places are together if the shift left the way between them as it was.
        way = windows[:, :, None] - windows[:, None]
        together = (way == within[:, None] - within[None]).all(axis=-1)
        np.testing.assert_array_equal(swin._apart(rows, columns, size, shift), ~together)


def test_offsets_tell_every_way_between_two_places_apart():
    offsets = swin._offsets(3)
    within = np.stack(np.divmod(np.arange(9), 3), axis=1)
    way = (within[:, None] - within[None]).reshape(-1, 2)
    pairs = {(*way, row) for way, row in zip(map(tuple, way.tolist()), offsets.ravel().tolist())}
    assert len(pairs) == len({row for *_, row in pairs}) == 25


@pytest.mark.parametrize(
    "net",
    [
        convnext.ConvNeXt((1, 1), (8, 12), remat=True),
        swin.Swin(12, (1, 2), (1, 2), window=2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3)),
    ],
)
def test_features_are_the_pooled_maps_float32_and_every_parameter_has_a_depth(net):
    images = jax.random.uniform(jax.random.key(0), (2, 26, 24, 1))
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), images)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float32"}
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape)), shapes)
    features = jax.jit(lambda v, x: net.apply(v, x, False))
    maps, pooled = jax.jit(
        lambda v, x: (m := net.apply(v, x, False, method="maps"), net.apply(v, m, method="pool"))
    )(variables, images)
    whole = features(variables, images)
    assert maps.dtype == whole.dtype == jnp.float32 and maps.shape[1:3] == (3, 3)
    np.testing.assert_allclose(pooled, whole, atol=1e-5 * np.abs(whole).max())
    alone = features(variables, images.at[0].set(0))
    np.testing.assert_allclose(alone[1], whole[1], atol=1e-5 * np.abs(whole).max())
    depths = {name: net.depth(name) for name in shapes["params"]}
    assert depths["norm"] == max(depths.values()) == depths[f"stage1_block{net.blocks[1] - 1}"]
    assert depths["stage1_norm"] == depths["stage1_block0"] == 2 and depths["stage0_block0"] == 1
    assert {name for name, depth in depths.items() if depth == 0} <= {
        *("stem_conv", "stem_norm", "patch_embed", "patch_norm"),
    }


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (convnext.make, {"variant": "G"}, "no ConvNeXt variant 'G'; there are T, S, B, L, XL"),
        (swin.make, {"variant": "G"}, "no Swin variant 'G'; there are T, S, B, L"),
        (swin.make, {"window": 1}, "a window has 2 patches a side or more"),
    ],
)
def test_arguments_that_make_no_sense_are_named(make, fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_as_many_parameters_as_published():
    # timm's convnext_base and swin_large_patch4_window7_224 without classifiers.
    for net, total in (
        (convnext.make("B", mean=(0.5,) * 3, std=(0.5,) * 3), 87_566_464),
        (swin.make("L", mean=(0.5,) * 3, std=(0.5,) * 3), 194_995_476),
    ):
        image = jax.ShapeDtypeStruct((1, 224, 224, 1), jnp.float32)
        shapes = jax.eval_shape(lambda x, n=net: n.init(jax.random.key(0), x, False), image)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == total

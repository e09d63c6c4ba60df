"""Whole views: their order against Pillow and scipy, their randomness, their errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageOps
from scipy import ndimage, stats

from cxr_jax.augment.views import augment_view, check_view
from tests.fakes.plain_view import PLAIN

# The papers' recipes at 224 px (appendix A of SimCLR, table 6 of BYOL).
SIMCLR = PLAIN | dict(
    size=224,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=0.5,
    brightness=0.8,
    contrast=0.8,
    jitter_prob=0.8,
    blur_prob=0.5,
)
BYOL_1 = SIMCLR | dict(brightness=0.4, contrast=0.4, blur_prob=1.0)
BYOL_2 = BYOL_1 | dict(blur_prob=0.1, solarise_prob=0.2)
EVERYTHING = BYOL_2 | dict(size=24, rotate=10.0, gamma=0.3, noise=0.1, blur_sigma=(0.1, 1.0))

KEY = jax.random.PRNGKey(0)


def augmented(key, images, view):
    """Compiled once per view and shape: op by op, each test would compile for seconds."""
    fields = tuple(view.items())
    return np.asarray(_compiled(key, images, fields))


@partial(jax.jit, static_argnums=2)
def _compiled(key, images, fields):
    return augment_view(key, images, dict(fields))


def draw_images(n, height=40, width=40):
    noise = np.random.default_rng(3).random((n, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)[..., None]


def test_order_of_the_steps_is_resize_flip_blur_solarise():
    image = draw_images(1, 60, 60)
    view = PLAIN | dict(flip=1.0, blur_prob=1.0, blur_sigma=(0.8, 0.8), solarise_prob=1.0)
    out = augmented(KEY, image, view)[0, ..., 0]
    small = Image.fromarray(image[0, ..., 0].astype(np.float32)).resize((32, 32), Image.BILINEAR)
    flipped = np.asarray(ImageOps.mirror(small))
    smooth = ndimage.gaussian_filter(flipped, 0.8, truncate=12) / 255
    expected = np.where(smooth >= 0.5, 1 - smooth, smooth)
    interior = np.s_[6:-6, 6:-6]
    np.testing.assert_allclose(out[interior], expected[interior], atol=1e-5)


def test_jitter_is_all_ops_or_none():
    images = np.full((400, 4, 4, 1), 128, np.uint8)
    images[:, :2] = 140
    view = PLAIN | dict(size=4, brightness=0.4, contrast=0.8, gamma=0.5, jitter_prob=0.8)
    out = augmented(KEY, images, view)
    contrast_changed = np.ptp(out, axis=(1, 2, 3)) != np.ptp(images[0] / np.float32(255))
    level_changed = out[:, 3, 3, 0] != np.float32(128) / np.float32(255)
    np.testing.assert_array_equal(contrast_changed, level_changed)
    assert stats.binomtest(int(level_changed.sum()), 400, 0.8).pvalue > 1e-3


def test_flip_rate_and_blur_rate():
    images = np.zeros((1000, 8, 8, 1), np.uint8)
    images[:, :, :2] = 255
    flip = augmented(KEY, images, PLAIN | dict(size=8, flip=0.3))
    flipped = flip[:, 0, 7, 0] == 1
    np.testing.assert_array_equal(flip[flipped], images[flipped][:, :, ::-1] / 255)
    np.testing.assert_array_equal(flip[~flipped], images[~flipped] / 255)
    assert stats.binomtest(int(flipped.sum()), 1000, 0.3).pvalue > 1e-3
    blur = augmented(KEY, images, PLAIN | dict(size=8, blur_prob=0.3))
    blurred = blur[:, 0, 2, 0] > 1e-12
    # Below sigma 0.2 the neighbour's weight is too small to see: 1 in 19 of the range.
    assert stats.binomtest(int(blurred.sum()), 1000, 0.3).pvalue > 1e-3


def test_rotation_angle_is_uniform():
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[:, None], (500, 60, 60, 1))
    out = augmented(KEY, ramp, PLAIN | dict(size=60, rotate=10.0))[..., 0]
    down = out[:, 40, 30] - out[:, 20, 30]
    right = out[:, 30, 40] - out[:, 30, 20]
    degrees = np.degrees(np.arctan2(down, right))
    assert np.abs(degrees).max() <= 10 + 1e-3
    assert stats.kstest(degrees, "uniform", (-10, 20)).pvalue > 1e-3


def test_view_without_rotation_gathers_nothing():
    def program(view):
        return str(jax.make_jaxpr(lambda k, x: augment_view(k, x, view))(KEY, draw_images(2)))

    assert " gather[" in program(EVERYTHING)
    assert " gather[" not in program(EVERYTHING | dict(rotate=0.0))


def test_same_key_same_view_other_key_other_view():
    images = draw_images(6)
    first = augmented(KEY, images, EVERYTHING)
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, augmented(KEY, images, EVERYTHING))
    other = augmented(jax.random.PRNGKey(1), images, EVERYTHING)
    assert np.all(np.abs(first - other).max(axis=(1, 2, 3)) > 0.01)


def test_every_image_draws_for_itself():
    same = np.repeat(draw_images(1), 6, axis=0)
    views = augmented(KEY, same, EVERYTHING)
    distances = np.abs(views[:, None] - views[None]).max(axis=(2, 3, 4))
    assert np.all(distances[~np.eye(6, dtype=bool)] > 0.01)
    changed = same.copy()
    changed[0] = 0
    np.testing.assert_array_equal(augmented(KEY, changed, EVERYTHING)[1:], views[1:])


def test_jit_changes_nothing():
    images = draw_images(6)
    view = PLAIN | dict(crop_scale=(0.2, 1.0), flip=0.5, contrast=0.8, jitter_prob=0.8)
    eager = augment_view(KEY, jnp.asarray(images), view)
    np.testing.assert_allclose(eager, augmented(KEY, images, view), atol=1e-5)


@pytest.mark.parametrize("recipe", [SIMCLR, BYOL_1, BYOL_2])
def test_published_recipes_give_images_in_range(recipe):
    images = np.concatenate([draw_images(3, 256, 230), np.full((1, 256, 230, 1), 255, np.uint8)])
    out = augmented(KEY, images, recipe)
    assert out.shape == (4, recipe["size"], recipe["size"], 1) and out.dtype == np.float32
    assert out.min() >= 0 and out.max() <= 1
    assert np.all(out[:3].std(axis=(1, 2, 3)) > 0.005)


def test_constant_image_stays_constant_under_geometry():
    geometry = EVERYTHING | dict(
        brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0, solarise_prob=0.0
    )
    images = np.full((20, 40, 50, 1), 77, np.uint8)
    np.testing.assert_allclose(augmented(KEY, images, geometry), 77 / 255, atol=1e-6)


def test_config_dict_is_a_view():
    check_view(ConfigDict(BYOL_2))
    with pytest.raises(ValueError, match="solarise_prob"):
        check_view(ConfigDict(BYOL_2 | dict(solarise_prob=2.0)))


def test_misspelt_field_names_the_closest():
    view = PLAIN | dict(solarize_prob=0.2)
    del view["solarise_prob"]
    with pytest.raises(
        ValueError, match=r"config.views.a has no field 'solarize_prob'; did you mean 'solarise_pr"
    ):
        check_view(view, "config.views.a")


def test_missing_field_is_named():
    view = {name: value for name, value in PLAIN.items() if name not in ("flip", "noise")}
    with pytest.raises(ValueError, match=r"view lacks 'flip', 'noise'; it needs 'size', "):
        augment_view(KEY, draw_images(1), view)


@pytest.mark.parametrize(
    "field, value",
    [
        ("size", 0),
        ("flip", 1.5),
        ("blur_prob", -0.1),
        ("rotate", -5.0),
        ("crop_scale", (0.5, 1.2)),
        ("crop_scale", (0.0, 1.0)),
        ("crop_scale", (0.9, 0.1)),
        ("crop_ratio", (0.0, 1.0)),
        ("blur_sigma", (1.0,)),
    ],
)
def test_impossible_value_is_named(field, value):
    with pytest.raises(ValueError, match=rf"view\.{field} is "):
        check_view(PLAIN | {field: value})

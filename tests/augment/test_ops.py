"""Every op against Pillow, scipy or numpy; every random strength against its distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from cxr_jax.augment import ops


def draw_image(height, width, seed=0):
    """Smooth structure plus white noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    noise = rng.random((height, width))
    smooth = ndimage.gaussian_filter(noise, 4)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return (0.7 * smooth + 0.3 * noise).astype(np.float32)


def crop_resize(image, box, size, flip=False):
    top, left, box_height, box_width = box
    rows = ops.resize_matrix(top, box_height, image.shape[0], size)
    columns = ops.resize_matrix(left, box_width, image.shape[1], size, flip)
    return np.asarray(ops.resample(jnp.asarray(image)[..., None], rows, columns))[..., 0]


BOXES = {
    "whole, shrinks": (0.0, 0.0, 96.0, 80.0),
    "off the pixel grid, shrinks": (3.3, 1.7, 90.25, 70.9),
    "at the far edges": (40.5, 20.25, 55.5, 59.75),
    "enlarges": (30.1, 12.6, 17.3, 11.2),
    "shrinks in y, enlarges in x": (1.5, 33.0, 94.0, 20.5),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_crop_and_resize_are_pillows_bilinear_with_a_box(box):
    image = draw_image(96, 80)
    top, left, box_height, box_width = box
    expected = Image.fromarray(image).resize(
        (32, 32), Image.BILINEAR, box=(left, top, left + box_width, top + box_height)
    )
    np.testing.assert_allclose(crop_resize(image, box, 32), np.asarray(expected), atol=2e-6)


def test_same_size_resize_changes_nothing():
    image = draw_image(40, 40)
    np.testing.assert_array_equal(crop_resize(image, (0, 0, 40, 40), 40), image)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_flip_is_the_exact_mirror_image(box):
    image = draw_image(96, 80)
    plain, flipped = crop_resize(image, box, 32), crop_resize(image, box, 32, flip=True)
    np.testing.assert_array_equal(flipped, plain[:, ::-1])
    assert not np.array_equal(flipped, plain)


def blurred(image, sigma):
    blur = ops.blur_matrix(sigma, image.shape[0])
    return np.asarray(ops.resample(jnp.asarray(image)[..., None], blur, blur))[..., 0]


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 2.0, 5.0])
def test_blur_is_scipys_gaussian_filter(sigma):
    image = draw_image(64, 64)
    exact = {"sigma": sigma, "truncate": 12, "mode": "constant"}
    inside = ndimage.gaussian_filter(image.astype(np.float64), **exact)
    renormalised = inside / ndimage.gaussian_filter(np.ones((64, 64)), **exact)
    np.testing.assert_allclose(blurred(image, sigma), renormalised, atol=2e-6)
    margin = min(30, int(np.ceil(6 * sigma)))
    interior = np.s_[margin:-margin, margin:-margin]
    np.testing.assert_allclose(blurred(image, sigma)[interior], inside[interior], atol=2e-6)


def test_no_blur_at_sigma_zero():
    np.testing.assert_array_equal(ops.blur_matrix(0.0, 20), np.eye(20))


@pytest.mark.parametrize("degrees", [-30.0, -7.0, 0.0, 3.0, 10.0, 90.0])
@pytest.mark.parametrize("shape", [(64, 64), (50, 71)])
def test_rotation_is_scipys(degrees, shape):
    image = draw_image(*shape)
    expected = ndimage.rotate(image, degrees, reshape=False, order=1, mode="nearest")
    rotated = np.asarray(ops.rotate(jnp.asarray(image)[..., None], degrees))[..., 0]
    # Positions are float32: 1e-5 px off, on slopes of up to 1 per px.
    np.testing.assert_allclose(rotated, expected, atol=3e-5)


@pytest.fixture
def grey():
    return (255 * draw_image(48, 48)).astype(np.uint8)


def adjusted(op, image, *args):
    out = op(jnp.asarray(image, jnp.float32)[..., None] / 255, *args)
    return 255 * np.asarray(out)[..., 0]


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.0, 1.8])
def test_brightness_is_pillows(grey, factor):
    expected = np.asarray(ImageEnhance.Brightness(Image.fromarray(grey)).enhance(factor))
    # Pillow rounds down to whole grey levels.
    np.testing.assert_allclose(adjusted(ops.adjust_brightness, grey, factor), expected, atol=1.001)


@pytest.mark.parametrize("factor", [0.2, 0.9, 1.0, 1.8])
def test_contrast_is_pillows(grey, factor):
    expected = np.asarray(ImageEnhance.Contrast(Image.fromarray(grey)).enhance(factor))
    # Pillow also rounds the mean to a whole grey level.
    tolerance = 1.001 + 0.5 * abs(1 - factor)
    out = adjusted(ops.adjust_contrast, grey, factor)
    np.testing.assert_allclose(out, expected, atol=tolerance)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.2])
def test_gamma_is_a_power(grey, exponent):
    expected = 255 * (grey / 255.0) ** exponent
    np.testing.assert_allclose(adjusted(ops.adjust_gamma, grey, exponent), expected, atol=1e-3)


def test_solarise_is_pillows():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(levels), threshold=128))
    np.testing.assert_allclose(adjusted(ops.invert_bright, levels), expected, atol=1e-4)


def draws(op, image, *args, n=2000):
    keys = jax.random.split(jax.random.PRNGKey(1), n)
    image = jnp.asarray(image, jnp.float32)[..., None]
    return np.asarray(jax.vmap(lambda key: op(key, image, *args))(keys))[..., 0]


def assert_uniform(values, low, high):
    assert low - 1e-5 <= values.min() and values.max() <= high + 1e-5
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_brightness_factor_is_uniform():
    out = draws(ops.brightness, np.full((1, 1), 0.5), 0.4)
    assert_uniform(out[:, 0, 0] / 0.5, 0.6, 1.4)


def test_brightness_factor_stays_positive():
    assert_uniform(draws(ops.brightness, np.full((1, 1), 0.1), 2.0)[:, 0, 0] / 0.1, 0.0, 3.0)


def test_contrast_factor_is_uniform():
    out = draws(ops.contrast, np.array([[0.4, 0.6]]), 0.8)
    assert_uniform((out[:, 0, 1] - out[:, 0, 0]) / 0.2, 0.2, 1.8)
    np.testing.assert_allclose(out.mean(axis=(1, 2)), 0.5, atol=1e-6)


def test_gamma_exponent_is_log_uniform():
    out = draws(ops.gamma, np.full((1, 1), 0.5), 0.5)[:, 0, 0].astype(np.float64)
    assert_uniform(np.log(np.log(out) / np.log(0.5)), -np.log(1.5), np.log(1.5))


def test_noise_is_white_with_uniform_standard_deviation():
    residual = draws(ops.noise, np.full((32, 32), 0.5), 0.05, n=1000) - 0.5
    stds = residual.std(axis=(1, 2))  # known to 2 % from 1024 pixels
    assert stats.kstest(stds, "uniform", (0, 0.05)).pvalue > 1e-3
    unit = residual / stds[:, None, None]
    assert stats.kstest(unit[::50].ravel(), "norm").pvalue > 1e-3
    assert abs(np.mean(unit[:, :, 1:] * unit[:, :, :-1])) < 0.005


def test_solarise_rate():
    solarised = draws(ops.solarise, np.full((1, 1), 0.9), 0.2)[:, 0, 0] < 0.5
    assert stats.binomtest(int(solarised.sum()), solarised.size, 0.2).pvalue > 1e-3


def boxes(height, width, scale, ratio, n=4000):
    keys = jax.random.split(jax.random.PRNGKey(2), n)
    return np.asarray(jax.vmap(lambda key: ops.crop_box(key, height, width, scale, ratio))(keys))


@pytest.mark.parametrize("shape", [(96, 96), (64, 80), (256, 40)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.4, 0.6)])
def test_crop_area_is_uniform_and_the_box_inside(shape, scale):
    top, left, box_height, box_width = boxes(*shape, scale, (3 / 4, 4 / 3)).T
    assert_uniform(box_height * box_width / (shape[0] * shape[1]), *scale)
    assert min(top.min(), left.min()) >= 0
    assert (top + box_height).max() <= shape[0] * (1 + 1e-6)
    assert (left + box_width).max() <= shape[1] * (1 + 1e-6)


def test_crop_aspect_and_place_are_uniform():
    top, left, box_height, box_width = boxes(96, 96, (0.08, 0.5), (3 / 4, 4 / 3)).T
    assert_uniform(np.log(box_width / box_height), np.log(3 / 4), np.log(4 / 3))
    assert_uniform(top / (96 - box_height), 0, 1)
    assert_uniform(left / (96 - box_width), 0, 1)


def test_whole_image_where_only_that_has_the_area():
    whole = np.tile(np.array([0, 0, 64, 80], np.float32), (10, 1))
    np.testing.assert_allclose(boxes(64, 80, (1.0, 1.0), (1.0, 1.0), n=10), whole, atol=1e-4)

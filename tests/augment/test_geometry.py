"""Where points land in a view: by hand, and against the pixels that augment_view makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cxr_jax.augment import geometry
from cxr_jax.augment.views import augment_view, view_geometry
from tests.fakes.plain_view import PLAIN

CROPS = PLAIN | dict(size=64, crop_scale=(0.15, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=0.5)
TURNS = CROPS | dict(rotate=25.0)


def where(degrees=0.0, crop=(0.0, 0.0, 64.0, 64.0), flip=False):
    return geometry.Geometry(
        jnp.float32(degrees), jnp.array(crop), jnp.asarray(flip), jnp.float32(0)
    )


def followed(points, geometry_, size=64, height=64, width=64):
    points = jnp.array(points, jnp.float32)
    return np.asarray(geometry.follow(points, geometry_, height, width, size))


def test_a_view_of_the_whole_image_only_scales():
    points = np.array([[0, 0], [10, 60], [64, 64]])
    np.testing.assert_allclose(followed(points, where(), size=32), points / 2, atol=1e-5)


def test_a_crop_moves_and_stretches():
    crop = where(crop=(10.0, 20.0, 20.0, 40.0))
    np.testing.assert_allclose(
        followed([[10, 20], [20, 20], [30, 60], [0, 0]], crop, size=40),
        [[0, 0], [20, 0], [40, 40], [-20, -20]],
        atol=1e-4,
    )


def test_a_flip_mirrors_left_and_right():
    points = [[5, 0], [7, 10]]
    np.testing.assert_allclose(followed(points, where(flip=True)), [[5, 64], [7, 54]], atol=1e-5)


def test_a_quarter_turn_counter_clockwise():
    corners = followed(geometry.corners(jnp.array([0.0, 0.0, 64.0, 64.0])), where(degrees=90.0))
    # The top left corner comes to the bottom left, the top right one to the top left.
    np.testing.assert_allclose(corners, [[64, 0], [0, 0], [0, 64], [64, 64]], atol=1e-4)


def rectangles(count, side):
    """Whole-pixel boxes (y0, x0, y1, x1) away from the rim, which a rotation would repeat."""
    rng = np.random.default_rng(4)
    start = rng.integers(8, side // 2, (count, 2))
    length = rng.integers(12, side // 2 - 8, (count, 2))
    return np.concatenate([start, start + length], axis=1)


def inside(polygon, size):
    """Whether the centre of each pixel is inside a convex polygon."""
    y, x = np.mgrid[:size, :size] + 0.5
    sides = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0)):
        (dy, dx) = end - start
        sides.append(dx * (y - start[0]) - dy * (x - start[1]))
    return np.all(np.array(sides) > 0, axis=0) | np.all(np.array(sides) < 0, axis=0)


@pytest.mark.parametrize("view", [CROPS, TURNS], ids=["crops", "turns"])
def test_bright_pixels_fill_the_polygon_that_is_predicted(view):
    side, count, size = 96, 40, view["size"]
    boxes = rectangles(count, side)
    images = np.zeros((count, side, side, 1), np.uint8)
    for image, (y0, x0, y1, x1) in zip(images, boxes):
        image[y0:y1, x0:x1] = 255
    key = jax.random.PRNGKey(5)

    @jax.jit
    def both(key, images):
        return augment_view(key, images, view), view_geometry(key, count, side, side, view)

    views, drawn = jax.device_get(both(key, images))
    assert 5 < np.asarray(drawn.flip).sum() < 35
    areas = []
    for index, bright in enumerate(views[..., 0]):
        one = jax.tree.map(lambda field, index=index: jnp.asarray(field[index]), drawn)
        corners = geometry.corners(jnp.asarray(boxes[index], jnp.float32))
        polygon = geometry.follow(corners, one, side, side, size)
        predicted = inside(np.asarray(polygon), size)
        # Enlarging rounds corners: up to two pixels at the rim of the polygon are in doubt.
        doubt = ndimage.binary_dilation(predicted, iterations=2) & ~ndimage.binary_erosion(
            predicted, iterations=2, border_value=1
        )
        np.testing.assert_array_equal((bright > 0.5) | doubt, predicted | doubt)
        areas.append((float(bright.sum()), float(geometry.area_inside(polygon, size))))
    bright, expected = np.array(areas).T
    np.testing.assert_allclose(bright, expected, atol=40)  # of 4,096 pixels
    assert abs((bright - expected).mean()) < 3
    assert (expected > 100).sum() > 20 and (expected < 4000).all()


def test_area_inside_is_that_of_a_fine_grid():
    rng = np.random.default_rng(6)
    for _ in range(60):
        angle, centre = rng.uniform(0, 2 * np.pi), rng.uniform(-3, 13, 2)
        half = rng.uniform(0.5, 9, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = centre + (np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * half) @ turn.T
        grid = inside(corners * 40, 400).mean() * 100
        area = geometry.area_inside(jnp.asarray(corners, jnp.float32), 10)
        assert float(area) == pytest.approx(grid, abs=0.15)


@pytest.mark.parametrize(
    "box, expected",
    [
        ((2, 3, 5, 7), 12),
        ((-5, -5, 20, 20), 100),
        ((-5, 2, 20, 4), 20),
        ((8, 8, 12, 12), 4),
        ((10, 0, 20, 10), 0),
        ((-9, -9, -1, -1), 0),
        ((3, 3, 3, 8), 0),
    ],
)
def test_area_inside_of_upright_boxes_is_exact(box, expected):
    corners = geometry.corners(jnp.array(box, jnp.float32))
    for outline in (corners, corners[::-1], jnp.roll(corners, 1, axis=0)):
        assert float(geometry.area_inside(outline, 10)) == pytest.approx(expected, abs=1e-4)

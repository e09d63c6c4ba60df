"""The drawing: what it depends on, and its building blocks against SciPy."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from data_builders.phantom import chest, drawing, projection
from data_builders.phantom.phantom_dataset_builder import Builder

SIZE = 96


def test_a_image_is_a_function_of_seed_patient_and_image():
    first = drawing.draw(0, 3, 1, SIZE)
    others = [drawing.draw(0, 3, 0, SIZE), drawing.draw(0, 4, 1, SIZE), drawing.draw(1, 3, 1, SIZE)]
    assert first.shape == (SIZE, SIZE) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, drawing.draw(0, 3, 1, SIZE))
    for other in others:
        assert np.mean(first != other) > 0.5


def test_images_of_a_patient_share_the_anatomy_and_nothing_else():
    anatomies, images = zip(*(drawing.image_parameters(0, 5, image) for image in range(3)))
    assert anatomies[0] == anatomies[1] == anatomies[2]
    assert anatomies[0] != drawing.image_parameters(0, 6, 0)[0]
    assert len({image.pose.zoom for image in images}) == 3
    assert len({image.exposure.gain for image in images}) == 3
    assert len({image.noise_seed for image in images}) == 3


def test_images_differ_in_exposure_and_fill_the_grey_scale():
    images = np.stack([drawing.draw(0, patient, 0, SIZE) for patient in range(40)])
    centres = images[:, 30:70, 20:76].mean(axis=(1, 2))
    assert centres.std() > 15
    assert np.percentile(images, 5) < 40 and np.percentile(images, 95) > 190


def test_smooth_is_a_gaussian_filter():
    image = np.random.default_rng(0).random((64, 64), np.float32)
    for sigma in (0.6, 1.0, 3.0):
        expected = ndimage.gaussian_filter(
            image.astype(np.float64), sigma, mode="nearest", radius=max(round(3 * sigma), 1)
        )
        np.testing.assert_allclose(projection.smooth(image, sigma / 64), expected, atol=2e-6)


def test_interpolate_is_linear_spline_interpolation():
    rng = np.random.default_rng(0)
    grid = rng.random((5, 5), np.float32)
    row, column = rng.uniform(-1, 6, (2, 20, 20)).astype(np.float32)
    expected = ndimage.map_coordinates(grid, np.clip([row, column], 0, 4), order=1)
    np.testing.assert_allclose(chest.interpolate(grid, column, row), expected, atol=2e-3)


def test_scattered_points_land_where_the_grid_says_and_keep_their_mass():
    pose = drawing.image_parameters(0, 0, 0)[1].pose
    x, y, pixel = projection.body_grid(pose, SIZE)
    for row, column in ((20, 30), (50, 60), (70, 11)):
        point = np.array([[x[row, column], y[row, column], 0.01]])
        density = projection.scatter_points(pose, point, SIZE)
        assert density.sum() * pixel**2 == pytest.approx(0.01, rel=1e-4)
        assert density[row, column] * pixel**2 == pytest.approx(0.01, rel=1e-2)


def test_points_off_the_image_are_left_out():
    pose = drawing.image_parameters(0, 0, 0)[1].pose
    assert projection.scatter_points(pose, np.array([[9.0, 9.0, 1.0]]), SIZE).sum() == 0


def test_collimation_covers_the_given_fractions():
    exposure = drawing.image_parameters(0, 0, 0)[1].exposure
    exposure = dataclasses.replace(exposure, collimation=(0.1, 0.0, 0.2, 0.05))
    opening = projection.collimated(exposure, 100)
    assert opening[50].nonzero()[0].tolist() == list(range(10, 80))
    assert opening[:, 50].nonzero()[0].tolist() == list(range(0, 95))


def test_the_images_of_version_1():
    """A change here means other images under the same name: raise the builder's VERSION."""
    assert str(Builder.VERSION) == "1.1.0"  # 1.1.0 added reports to the same images
    means = {0: 124.673, 2: 133.774, 3: 84.587, 5: 117.665}
    present = {0: "", 2: "Nodule", 3: "Cardiomegaly Nodule Consolidation", 5: "Cardiomegaly"}
    for patient, mean in means.items():
        anatomy, image = drawing.image_parameters(0, patient, 0)
        labels = drawing.labels(anatomy, image)
        assert " ".join(name for name, value in labels.items() if value) == present[patient]
        assert drawing.render(anatomy, image, SIZE).mean() == pytest.approx(mean, abs=0.05)

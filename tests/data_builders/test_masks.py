"""Masks on other grids than their image's, and those that are not its own."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_jax.io.limits import ImageError
from data_builders.base import masks, parallel


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_mask_comes_to_the_stored_images_pixels():
    mask = np.zeros((40, 80), bool)
    mask[8:24, 20:60] = True
    given = parallel.ToRead(
        lambda: np.zeros((40, 80), np.uint8), lambda: {"Lungs": mask, "No": None}
    )
    image = parallel.prepare_image(given, 20, "png")
    (lungs, first), (no, second) = image.masks
    assert (lungs, no) == ("Lungs", "No")
    np.testing.assert_array_equal(decoded(first), 255 * mask[::2, ::2])
    assert decoded(second).shape == (20, 40) and not decoded(second).any()


@pytest.mark.parametrize("shape", [(80, 40), (40, 76), (30, 40)])
def test_a_mask_of_another_shape_is_refused_by_name(shape):
    given = parallel.ToRead(
        lambda: np.zeros((40, 80), np.uint8), lambda: {"Lungs": np.ones(shape, bool)}
    )
    found = parallel.prepare_image(given, 20, "png")
    assert isinstance(found, parallel.Unreadable)
    assert f"mask of Lungs has another shape, {shape[0]} x {shape[1]} pixels" in found.reason


def test_files_of_masks(tmp_path):
    mask = np.zeros((20, 16), np.uint8)
    mask[3:5, 2:9] = 1
    for name, scale in (("one.png", 255), ("two.gif", 255), ("three.png", 1)):
        Image.fromarray(scale * mask).save(tmp_path / name)
        np.testing.assert_array_equal(masks.read(tmp_path / name), mask > 0)
    (tmp_path / "four.gif").write_bytes(b"GIF89a" + b"\0" * 20)
    with pytest.raises(ImageError, match="cannot be read"):
        masks.read(tmp_path / "four.gif")

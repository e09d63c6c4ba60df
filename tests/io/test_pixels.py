"""JPEGs decoded at a reduced scale against the full decode, on images with noise and edges."""

import numpy as np
import pytest
from PIL import Image

from cxr_jax.io import image_io, pixels
from tests.fakes.pictures import draw_image

TARGET = 64


def noisy(seed: int, height: int, width: int) -> np.ndarray:
    """A uint8 [h w] image with grain, a bright collimator edge and a letter-like marker."""
    picture = draw_image(seed, height, width).astype(float)
    picture[:, : width // 9] = 0
    picture[height // 12 : height // 8, width // 6 : width // 3] = 255
    picture += np.random.default_rng(seed).normal(0, 7, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def plainly(path, target: int) -> np.ndarray:
    """Full decode, luminance, bicubic."""
    image = Image.open(path).convert("L")
    scale = target / min(image.size)
    size = tuple(max(target, round(n * scale)) for n in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


# Just below and above the thresholds, with sides that 8 does not divide.
@pytest.mark.parametrize(
    ("width", "n"),
    [(204, 1), (205, 2), (261, 2), (332, 2), (333, 4), (419, 4), (563, 4), (564, 8), (625, 8)],
)
@pytest.mark.parametrize("colour", ["L", "RGB"])
def test_within_a_grey_level_of_the_full_decode(tmp_path, width, n, colour):
    size = (width, round(1.2 * width))
    assert pixels.reduction(size, TARGET) == pixels.reduction(size[::-1], TARGET) == n
    path = tmp_path / "image.jpg"
    Image.fromarray(noisy(width, *size[::-1])).convert(colour).save(path, quality=90)
    read = image_io.read_image(path, TARGET)[..., 0]
    assert read.shape == (round(1.2 * width * TARGET / width), TARGET)
    difference = np.abs(read.astype(int) - plainly(path, TARGET))
    assert difference.mean() < 1
    assert difference.max() < 60  # a shift by part of a block would show at the marker's edges


def test_colours_become_the_same_luminance(tmp_path):
    colours = np.stack(
        [draw_image(1, 300, 240), draw_image(2, 300, 240), draw_image(3, 300, 240)], axis=-1
    )
    Image.fromarray(colours).save(tmp_path / "colour.jpg", quality=95, subsampling=0)
    difference = image_io.read_image(tmp_path / "colour.jpg", TARGET)[..., 0].astype(int)
    difference -= plainly(tmp_path / "colour.jpg", TARGET)
    assert np.abs(difference).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_reduced_image(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noisy(0, 611, 583)).save(tmp_path / "turned.jpg", quality=90, exif=exif)
    reduced = image_io.read_image(tmp_path / "turned.jpg", TARGET).astype(int)
    whole = image_io.shrink(image_io.read_image(tmp_path / "turned.jpg"), TARGET)
    assert reduced.shape == whole.shape
    assert np.abs(reduced - whole).mean() < 1


def test_images_below_the_target_are_left_as_they_are(tmp_path):
    Image.fromarray(draw_image(0, 70, 60)).save(tmp_path / "small.jpg", quality=95)
    read = image_io.read_image(tmp_path / "small.jpg", TARGET)
    assert (read == image_io.read_image(tmp_path / "small.jpg")).all() and read.shape == (70, 60, 1)

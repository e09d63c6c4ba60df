"""JPEGs decoded at a reduced scale against the full decode, and what a cut one is refused for."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_jax.data.images import decode_square
from cxr_jax.io import image_io, pictures, pixels
from cxr_jax.io.limits import ImageError
from tests.fakes.pictures import draw_image

TARGET = 64
REALDATA = Path(__file__).parents[3] / "shared/realdata"


def noisy(seed: int, height: int, width: int) -> np.ndarray:
    """A uint8 [h w] image with grain, a bright collimator edge and a letter-like marker."""
    picture = draw_image(seed, height, width).astype(float)
    picture[:, : width // 9] = 0
    picture[height // 12 : height // 8, width // 6 : width // 3] = 255
    picture += np.random.default_rng(seed).normal(0, 7, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def plainly(path, target: int) -> np.ndarray:
    """Full decode, luminance, triangle filter."""
    image = Image.open(path).convert("L")
    scale = target / min(image.size)
    size = tuple(max(target, round(n * scale)) for n in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


# Just below and above the thresholds, with sides that 4 does not divide.
@pytest.mark.parametrize(
    ("width", "n"), [(191, 1), (192, 2), (261, 2), (639, 2), (640, 4), (663, 4)]
)
@pytest.mark.parametrize("colour", ["L", "RGB"])
def test_within_a_grey_level_of_the_full_decode(tmp_path, width, n, colour):
    size = (width, round(1.2 * width))
    assert pictures.reduction(size, TARGET) == pictures.reduction(size[::-1], TARGET) == n
    path = tmp_path / "image.jpg"
    Image.fromarray(noisy(width, *size[::-1])).convert(colour).save(path, quality=90)
    read = image_io.read_image(path, TARGET)[..., 0]
    assert read.shape == (round(1.2 * width * TARGET / width), TARGET)
    difference = np.abs(read.astype(int) - plainly(path, TARGET))
    assert difference.mean() < 1
    assert difference.max() < 30  # a shift by part of a block would show at the marker's edges


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
    Image.fromarray(noisy(0, 211, 199)).save(tmp_path / "turned.jpg", quality=90, exif=exif)
    reduced = image_io.read_image(tmp_path / "turned.jpg", TARGET).astype(int)
    whole = image_io.shrink(image_io.read_image(tmp_path / "turned.jpg"), TARGET)
    assert reduced.shape == whole.shape
    assert np.abs(reduced - whole).mean() < 1


def test_images_below_the_target_are_left_as_they_are(tmp_path):
    Image.fromarray(draw_image(0, 70, 60)).save(tmp_path / "small.jpg", quality=95)
    read = image_io.read_image(tmp_path / "small.jpg", TARGET)
    assert (read == image_io.read_image(tmp_path / "small.jpg")).all() and read.shape == (70, 60, 1)


def coded(mode: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noisy(5, 160, 130)).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\0\0\xff\xd9"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 7}], ids=str
)
def test_a_cut_jpeg_is_refused_with_and_without_an_end_marker(tmp_path, options, mode, end):
    whole, path = coded(mode, **options), tmp_path / "cut.jpg"
    path.write_bytes(whole)
    image_io.read_image(path)
    scans = [place for place in range(len(whole)) if whole[place : place + 2] == b"\xff\xda"]
    restarts = [place for place in range(len(whole)) if whole[place : place + 2] == b"\xff\xd4"]
    for place in (*(int(part * len(whole)) for part in (0.99, 0.9, 0.4)), *scans, *restarts[:2]):
        path.write_bytes(whole[:place] + end)
        with pytest.raises(ImageError):
            image_io.read_image(path)
        with pytest.raises(ImageError):
            image_io.read_image(path, 16)


def test_stray_bytes_that_harm_no_pixel_are_read_over(tmp_path):
    whole, path = coded("L"), tmp_path / "odd.jpg"
    path.write_bytes(whole)
    expected = image_io.read_image(path)
    table = whole.index(b"\xff\xdb")
    for odd in (
        whole[:-2] + b"\0\0" + whole[-2:],
        whole + bytes(100),
        whole[:table] + bytes(30) + whole[table:],
    ):
        path.write_bytes(odd)
        np.testing.assert_array_equal(image_io.read_image(path), expected)


@pytest.mark.skipif(not REALDATA.is_dir(), reason="needs ../shared/realdata")
@pytest.mark.parametrize(("n", "least"), pictures.LEAST.items())
def test_real_radiographs_stay_within_a_grey_level_at_the_limits(n, least):
    files = sorted(path for path in REALDATA.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    for path in files[:: len(files) // 40]:
        encoded = image_io.encode(image_io.read_image(path), "jpeg")
        whole = pictures.decode(encoded)
        size = int(min(whole.size) / n / least)
        assert min(pictures.decode(encoded, size).pixels.shape) == -(-min(whole.size) // n)
        difference = decode_square(encoded, size)[..., 0].astype(int) - pixels.square(whole, size)
        assert np.abs(difference).mean() < 1, path

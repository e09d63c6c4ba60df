import io

import numpy as np
import pytest
from PIL import Image

from cxr_jax.data.images import decode_square, stored_size, to_square


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (127 + 60 * np.sin(x / 29) + 60 * np.cos(y / 37)).astype(np.uint8)


def test_the_centre_of_a_wide_image_is_kept():
    image = np.zeros((64, 128), np.uint8)
    image[:, 32:96] = 200
    assert (decode_square(_encode(image, "PNG"), 64) == 200).all()


def test_equals_block_means_at_half_size_up_to_the_triangle_filter():
    image = _smooth(128, 128)
    blocks = image.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    square = decode_square(_encode(image, "PNG"), 64)[..., 0]
    assert square.shape == (64, 64)
    assert np.abs(square[2:-2, 2:-2] - blocks[2:-2, 2:-2]).max() <= 2


def test_reduced_jpeg_decode_is_close_to_the_full_decode():
    image = _smooth(512, 400)
    encoded = _encode(image, "JPEG")
    full = Image.open(io.BytesIO(encoded)).resize(
        (64, 64), Image.Resampling.BILINEAR, box=(0, 56, 400, 456)
    )
    difference = np.abs(decode_square(encoded, 64)[..., 0].astype(int) - np.asarray(full))
    assert difference.mean() < 1.0


@pytest.mark.parametrize("height, width", [(120, 60), (60, 120), (90, 90)])
def test_boxes_move_with_the_pixels(height, width):
    assert stored_size(_encode(np.zeros((height, width), np.uint8), "PNG")) == (height, width)
    image = np.zeros((height, width), np.uint8)
    top, left, bottom, right = height // 2 - 12, width // 2 - 6, height // 2 + 9, width // 2 + 18
    image[top:bottom, left:right] = 255
    box = np.array([[top / height, left / width, bottom / height, right / width]])
    square = decode_square(_encode(image, "PNG"), 120)[..., 0]
    bright = [np.flatnonzero((square > 127).any(axis=axis)) for axis in (1, 0)]
    y0, x0, y1, x1 = np.round(120 * to_square(box, height, width)[0], 6)
    assert [bright[0][0], bright[0][-1] + 1] == pytest.approx([y0, y1], abs=0.51)
    assert [bright[1][0], bright[1][-1] + 1] == pytest.approx([x0, x1], abs=0.51)


def test_what_the_square_cuts_off_lies_outside_it():
    box = to_square(np.array([[0.0, 0.0, 0.2, 1.0]]), 200, 100)
    np.testing.assert_allclose(box, [[-0.5, 0.0, -0.1, 1.0]])


@pytest.mark.parametrize(
    ("size", "reduced"), [(40, 4), (41, 2), (130, 2), (133, 2), (134, 1), (300, 1)]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_is_decoded_as_pillow_decodes_it(mode, size, reduced):
    """Pillow's own reduction ("draft"), then the same crop and resampling."""
    encoded = _encode(np.asarray(Image.fromarray(_smooth(400, 520)).convert(mode)), "JPEG")
    image = Image.open(io.BytesIO(encoded))
    image.draft("L", (520 // reduced, 400 // reduced))
    assert image.height == 400 // reduced
    left, top = (image.width - min(image.size)) / 2, (image.height - min(image.size)) / 2
    box = (left, top, image.width - left, image.height - top)
    expected = image.convert("L").resize((size, size), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_array_equal(decode_square(encoded, size)[..., 0], np.asarray(expected))


def test_a_image_of_the_size_is_cropped_to_whole_pixels():
    image = np.arange(64 * 69, dtype=np.uint32).reshape(64, 69).astype(np.uint8)
    np.testing.assert_array_equal(decode_square(_encode(image, "PNG"), 64)[..., 0], image[:, 2:66])


def test_jpegs_of_four_colours_are_read_and_damaged_ones_refused():
    buffer = io.BytesIO()
    Image.fromarray(_smooth(64, 64)).convert("CMYK").save(buffer, "JPEG")
    assert decode_square(buffer.getvalue(), 64).std() > 10
    whole = _encode(_smooth(256, 256), "JPEG")
    for end in (b"", b"\xff\xd9"):
        with pytest.raises(ValueError, match="ends early"):
            decode_square(whole[: len(whole) // 2] + end, 64)


@pytest.mark.parametrize(("height", "width", "size"), [(513, 1024, 64), (129, 300, 32)])
def test_a_reduced_jpeg_whose_sides_do_not_divide_shows_the_same_square(height, width, size):
    encoded = _encode(_smooth(height, width), "JPEG")
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    full = Image.open(io.BytesIO(encoded)).resize((size, size), Image.Resampling.BILINEAR, box=box)
    difference = np.abs(decode_square(encoded, size)[..., 0].astype(int) - np.asarray(full))
    assert difference.mean() < 2.0

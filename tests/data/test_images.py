import io

import numpy as np
from PIL import Image

from cxr_jax.data.images import decode_square


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def _smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (127 + 60 * np.sin(x / 29) + 60 * np.cos(y / 37)).astype(np.uint8)


def test_the_centre_of_a_wide_film_is_kept():
    film = np.zeros((64, 128), np.uint8)
    film[:, 32:96] = 200
    assert (decode_square(_encode(film, "PNG"), 64) == 200).all()


def test_equals_block_means_at_half_size_up_to_the_triangle_filter():
    film = _smooth(128, 128)
    blocks = film.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    square = decode_square(_encode(film, "PNG"), 64)[..., 0]
    assert square.shape == (64, 64)
    assert np.abs(square[2:-2, 2:-2] - blocks[2:-2, 2:-2]).max() <= 2


def test_reduced_jpeg_decode_is_close_to_the_full_decode():
    film = _smooth(512, 400)
    encoded = _encode(film, "JPEG")
    full = Image.open(io.BytesIO(encoded)).resize(
        (64, 64), Image.Resampling.BILINEAR, box=(0, 56, 400, 456)
    )
    difference = np.abs(decode_square(encoded, 64)[..., 0].astype(int) - np.asarray(full))
    assert difference.mean() < 1.0

"""The perceptual hash against SciPy's transform, and what it is for."""

import io

import numpy as np
import scipy.fft
from PIL import Image

from data_builders.base.parallel import phash
from tests.fakes.pictures import draw_image


def bits(digest: str) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digest), np.uint8))


def test_against_scipy():
    for seed in range(5):
        picture = draw_image(seed, 320, 256)
        # 320 x 256 is an exact multiple of 32 x 32: area-resizing is the mean of blocks.
        small = np.round(picture.reshape(32, 10, 32, 8).mean((1, 3)))
        low = scipy.fft.dctn(small, norm="ortho")[:8, :8]
        digest = phash(picture[..., None])
        assert len(digest) == 16
        assert (bits(digest) != (low > np.median(low)).ravel()).sum() <= 2


def test_survives_shrinking_and_jpeg_and_tells_images_apart():
    pictures = [draw_image(seed, 320, 256) for seed in range(8)]
    hashes = [bits(phash(picture[..., None])) for picture in pictures]
    for picture, digest in zip(pictures, hashes, strict=True):
        stream = io.BytesIO()
        Image.fromarray(picture).resize((128, 160)).save(stream, "JPEG", quality=80)
        copy = np.asarray(Image.open(stream))[..., None]
        assert (bits(phash(copy)) != digest).sum() <= 10
    distances = [(a != b).sum() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 10

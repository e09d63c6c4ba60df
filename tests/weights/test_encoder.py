import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cxr_jax
from cxr_jax import models
from cxr_jax.data.images import decode_square
from cxr_jax.io.image_io import read_image
from cxr_jax.weights.encoder import ImageEncoder, features, random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors
from tests.fakes.dicom_files import write_dicom

SIZE = 32


@pytest.fixture(scope="module")
def encoder():
    config = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": SIZE}
    return ImageEncoder(random_encoder(config, SIZE, seed=0))


def _images(count=3, height=SIZE, width=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width), np.uint8)


def test_arrays_of_every_kind_give_the_encoders_features(encoder):
    images = _images()
    unit = images / np.float32(255)
    reference = np.asarray(features(encoder.encoder)(unit[..., None]))
    assert encoder(images).dtype == np.float32 and "32 px" in repr(encoder)
    for same in (images, images[..., None], unit, unit.astype(np.float64), list(images)):
        np.testing.assert_allclose(encoder(same), reference, atol=1e-5)
    several = [images, images[..., None], list(images), tuple(images[..., None]), iter(images)]
    for same in (*several, jnp.asarray(images), unit[..., None], list(unit)):
        np.testing.assert_array_equal(encoder(same), encoder(images))
    for same in (images[0], images[0][..., None], [images[0]], images[:1], images[:1, ..., None]):
        np.testing.assert_array_equal(encoder(same), encoder(images)[:1])
    np.testing.assert_allclose(encoder(images[0]), reference[:1], atol=1e-5)
    np.testing.assert_allclose(encoder(images, batch_size=2), reference, atol=1e-5)


def _vit(**changes):
    return {"name": "vit", "variant": "64x1", "patch": 8, "image_size": SIZE} | changes


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ({"name": "resnet", "variant": "small"}, (2, 2, 128)),
        (_vit(pooling="mean", registers=2), (4, 4, 64)),
        (_vit(pooling="mean", norm_after_pooling=True), (4, 4, 64)),
        (_vit(), (4, 4, 64)),
    ],
)
def test_maps_are_what_features_are_pooled_from(model, shape):
    encoder = ImageEncoder(random_encoder(model, SIZE, seed=0))
    images = _images()
    maps, pooled = encoder.maps(images, batch_size=2), encoder(images)
    assert maps.shape == (3, *shape) and maps.dtype == np.float32
    mean = maps.mean((1, 2))
    if model.get("norm_after_pooling"):  # of initial weights: no scale, no shift
        mean = (mean - mean.mean(1, keepdims=True)) / mean.std(1, keepdims=True)
    if model.get("pooling") == "mean" or model["name"] != "vit":
        np.testing.assert_allclose(mean, pooled, atol=1e-4)
    else:  # the class token is not among the patches
        assert np.abs(maps - pooled[:, None, None]).max((1, 2, 3)).min() > 0.1
        net = models.build(model)
        unit = jnp.asarray(images[..., None] / np.float32(255))
        tokens = net.apply(
            encoder.encoder.variables,
            net.apply(encoder.encoder.variables, unit, method="embed").reshape(3, 16, 64),
            method="encode",
        )
        np.testing.assert_allclose(tokens[:, 0], pooled, atol=1e-4)
        np.testing.assert_allclose(tokens[:, 1:], maps.reshape(3, 16, 64), atol=1e-4)
        brighter = images.copy()
        brighter[:, :8, 24:] = 255  # its upper right corner
        moved = np.abs(encoder.maps(brighter) - maps).max((0, 3))
        assert np.unravel_index(moved.argmax(), moved.shape) == (0, 3)


def test_a_larger_image_is_shrunk_and_its_centre_taken(encoder):
    small = np.repeat(np.linspace(40, 200, SIZE).astype(np.uint8)[:, None], SIZE, axis=1)
    large = np.kron(small, np.ones((4, 4), np.uint8))
    wide = np.pad(large, ((0, 0), (24, 24)), mode="edge")
    ours, centre, other = encoder([large, wide, large[:, ::-1] // 2])
    np.testing.assert_allclose(ours, centre, atol=1e-5)
    assert np.abs(ours - encoder(small)[0]).max() < 0.2 * np.abs(ours - other).max()


@pytest.mark.parametrize(("height", "width"), [(48, SIZE), (SIZE, 37), (211, 174), (33, 31)])
def test_a_file_the_array_read_from_it_and_transfer_give_the_same(encoder, tmp_path, height, width):
    image = _images(1, height, width)[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(image).save(tmp_path / "image.jpg", quality=80)
    write_dicom(tmp_path / "image.dcm", image, photometric="MONOCHROME1")
    for path in tmp_path.iterdir():
        read = read_image(path)
        same = [read, read / 255, [read[..., 0]]]
        if path.suffix != ".dcm":
            square = decode_square(path.read_bytes(), SIZE)
            # A JPEG far larger than the encoder reads is decoded reduced in transfer.
            same += [square] if path.suffix == ".png" or min(height, width) < 3 * SIZE else []
        for array in same:
            np.testing.assert_array_equal(encoder(path), encoder(array))


def test_files_give_the_features_of_their_pixels(encoder, tmp_path):
    image = _images(1, 48, SIZE)[0]
    Image.fromarray(image).save(tmp_path / "image.png")
    np.testing.assert_allclose(encoder(tmp_path / "image.png"), encoder(image), atol=1e-5)
    # Twelve bits, inverted: what a radiologist would see is the same image.
    write_dicom(
        tmp_path / "image.dcm",
        (255 - image).astype(np.uint16) * 16,
        photometric="MONOCHROME1",
        bits=12,
    )
    two = encoder([str(tmp_path / "image.dcm"), image])
    np.testing.assert_allclose(two[0], two[1], atol=0.05)
    assert np.abs(encoder(255 - image)[0] - two[1]).max() > 0.5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        ([_images(1)[0], _images(1)[0].astype(np.uint16)], "image 1 is of dtype uint16"),
        (_images().astype(np.float32), "image 0 has pixels from 0 to 255; scale"),
        (np.full((1, 16, 16), np.nan), "image 0 has pixels from nan"),
        (
            np.zeros((1, 8, 8, 3), np.uint8),
            r"images have shape \(1, 8, 8, 3\); an image is \[h w\] or",
        ),
        *[
            (np.zeros(shape, np.uint8), r"shape \(.*; an image is \[h w\] or")
            for shape in ((40, 36, 3), (40, 36, 4), (40, 36, 1, 1), (40, 2))
        ],
        (["/no/such.dcm"], r"/no/such\.dcm: no such file"),
    ],
)
def test_what_is_no_image_is_named(encoder, images, message):
    with pytest.raises(ValueError, match=message):
        encoder(images)


def test_load_encoder_takes_what_config_encoder_takes(encoder, tmp_path):
    write_folder(tmp_path, safetensors.export(encoder.encoder), card="")
    again = cxr_jax.load_encoder(f"safetensors:{tmp_path}")
    np.testing.assert_array_equal(again(_images()), encoder(_images()))
    with pytest.raises(FileNotFoundError, match=r"no workdir or weights file /no/such\.pth"):
        cxr_jax.load_encoder("moco:/no/such.pth")
    with pytest.raises(FileNotFoundError, match=r"a\+runs/b .*joined by '\+' in configs/transfer"):
        cxr_jax.load_encoder("runs/a+runs/b")


def test_importing_the_package_imports_no_jax():
    check = "import cxr_jax, sys; sys.exit('jax' in sys.modules or 'pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0

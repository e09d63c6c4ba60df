import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import cxr_jax
from cxr_jax.weights.encoder import features, random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors
from cxr_jax.weights.featurize import FilmEncoder
from tests.fakes.dicom_files import write_dicom

SIZE = 32


@pytest.fixture(scope="module")
def encoder():
    config = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": SIZE}
    return FilmEncoder(random_encoder(config, SIZE, seed=0))


def _films(count=3, height=SIZE, width=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width), np.uint8)


def test_arrays_of_every_kind_give_the_encoders_features(encoder):
    films = _films()
    unit = films / np.float32(255)
    reference = np.asarray(features(encoder.encoder)(unit[..., None]))
    assert encoder(films).dtype == np.float32 and "32 px" in repr(encoder)
    for same in (films, films[..., None], unit, unit.astype(np.float64), list(films)):
        np.testing.assert_allclose(encoder(same), reference, atol=1e-5)
    np.testing.assert_allclose(encoder(films[0]), reference[:1], atol=1e-5)
    np.testing.assert_allclose(encoder(films, batch_size=2), reference, atol=1e-5)


def test_a_larger_film_is_shrunk_and_its_centre_taken(encoder):
    small = np.repeat(np.linspace(40, 200, SIZE).astype(np.uint8)[:, None], SIZE, axis=1)
    large = np.kron(small, np.ones((4, 4), np.uint8))
    wide = np.pad(large, ((0, 0), (24, 24)), mode="edge")
    ours, centre, other = encoder([large, wide, large[:, ::-1] // 2])
    np.testing.assert_allclose(ours, centre, atol=1e-5)
    assert np.abs(ours - encoder(small)[0]).max() < 0.2 * np.abs(ours - other).max()


def test_files_give_the_features_of_their_pixels(encoder, tmp_path):
    film = _films(1, 48, SIZE)[0]
    Image.fromarray(film).save(tmp_path / "film.png")
    np.testing.assert_allclose(encoder(tmp_path / "film.png"), encoder(film), atol=1e-5)
    # Twelve bits, inverted: what a radiologist would see is the same film.
    write_dicom(
        tmp_path / "film.dcm",
        (255 - film).astype(np.uint16) * 16,
        photometric="MONOCHROME1",
        bits=12,
    )
    two = encoder([str(tmp_path / "film.dcm"), film])
    np.testing.assert_allclose(two[0], two[1], atol=0.05)
    assert np.abs(encoder(255 - film)[0] - two[1]).max() > 0.5


@pytest.mark.parametrize(
    ("films", "message"),
    [
        ([], "no films"),
        ([_films(1)[0], _films(1)[0].astype(np.uint16)], "film 1 is of dtype uint16"),
        (_films().astype(np.float32), "film 0 has pixels from 0 to 255; scale"),
        (np.full((1, 8, 8), np.nan), "film 0 has pixels from nan"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"film 0 has shape \(8, 8, 3\)"),
        (["/no/such.dcm"], r"/no/such\.dcm: no such file"),
    ],
)
def test_what_is_no_film_is_named(encoder, films, message):
    with pytest.raises(ValueError, match=message):
        encoder(films)


def test_load_encoder_takes_what_config_encoder_takes(encoder, tmp_path):
    write_folder(tmp_path, safetensors.export(encoder.encoder), card="")
    again = cxr_jax.load_encoder(f"safetensors:{tmp_path}")
    np.testing.assert_array_equal(again(_films()), encoder(_films()))
    with pytest.raises(FileNotFoundError, match=r"no workdir or weights file /no/such\.pth"):
        cxr_jax.load_encoder("moco:/no/such.pth")


def test_importing_the_package_imports_no_jax():
    check = "import cxr_jax, sys; sys.exit('jax' in sys.modules or 'pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0

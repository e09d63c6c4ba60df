"""Each source makes a square of an image that is none as docs/weights.md says of it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cxr_jax.data import images as stored
from cxr_jax.io import pixels
from cxr_jax.weights import importers
from cxr_jax.weights.encoder import FITS, ImageEncoder, random_encoder
from cxr_jax.weights.exporters import huggingface, timm

PAGE = (Path(__file__).parents[2] / "docs/weights.md").read_text()
WIDE = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)


def _by_hand(image, size, fit):
    """With Pillow alone, on a canvas: what the owners' code does."""
    height, width = image.shape
    picture = Image.fromarray(image)
    if fit == "squash":
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    ratio = size / (max if fit == "pad" else min)(height, width)
    resized = picture.resize(
        (round(width * ratio), round(height * ratio)), Image.Resampling.BILINEAR
    )
    canvas = Image.new("L", (size, size))
    canvas.paste(resized, ((size - resized.width) // 2, (size - resized.height) // 2))
    return np.asarray(canvas)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("image", [WIDE, WIDE.T], ids=["wide", "high"])
def test_squares_are_those_of_pillow_by_hand(image, fit):
    square = pixels.square(pixels.unscaled(np.ascontiguousarray(image)), 20, fit)
    difference = square.astype(int) - _by_hand(np.ascontiguousarray(image), 20, fit)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("fit", FITS)
def test_boxes_go_where_their_pixels_go(fit):
    image = np.zeros((40, 60), np.uint8)
    image[10:20, 30:45] = 255
    box = np.array([[10 / 40, 30 / 60, 20 / 40, 45 / 60]])
    top, left, bottom, right = stored.to_square(box, 40, 60, fit)[0] * 120
    square = pixels.square(pixels.unscaled(image), 120, fit)
    rows, columns = np.nonzero(square > 127)
    found = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    np.testing.assert_allclose(found, (top, left, bottom, right), atol=1)


def test_an_encoder_reads_the_square_of_its_owner(tmp_path, monkeypatch):
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
    encoder = random_encoder(model, 32, seed=0)
    wide = np.random.default_rng(1).integers(0, 256, (64, 96), np.uint8)
    found = {}
    for fit in FITS:
        read = ImageEncoder(encoder._replace(fit=fit))
        found[fit] = read(wide)
        np.testing.assert_allclose(found[fit], read(_by_hand(wide, 32, fit)), atol=0.02)
        assert (len(read.encoder.reads) == 2) == (fit == "crop")  # as fingerprints always were
    assert np.abs(found["pad"] - found["crop"]).max() > 0.1
    assert np.abs(found["squash"] - found["crop"]).max() > 0.1
    # Processors of transformers do not pad: the lines that the card shows do.
    Image.fromarray(wide[:48]).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    usage = huggingface.export(encoder._replace(fit="pad")).usage
    line = re.search("^image = (.*)$", usage, re.MULTILINE)[1]
    square = eval(line, {"Image": Image, "ImageOps": ImageOps})
    np.testing.assert_array_equal(square, _by_hand(wide[:48], 32, "pad"))
    assert "pad with black" in timm.export(encoder._replace(fit="pad")).usage


def test_the_page_has_a_row_for_every_source():
    rows = re.findall(r"^\| ([\w, ]+) \| ", PAGE.partition("## Preprocessing")[2], re.MULTILINE)
    named = {name for row in rows for name in row.split(", ")}
    assert set(importers.sources()) <= named

"""Encoders as ONNX, run by onnxruntime (skipped without onnx and onnxruntime)."""

import sys

import jax
import numpy as np
import pytest

from cxr_jax import models, weights
from cxr_jax.models import densenet, resnet
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.export import main, write_folder
from cxr_jax.weights.exporters import safetensors

VIT = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
RGB = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
CASES = {
    "small": ({"name": "resnet", "variant": "small"}, 40),
    "basic": ({"name": "resnet", "variant": "18", **RGB}, 32),
    "v1": ({"name": "resnet", "variant": "50", "stride_in_1x1": True}, 32),
    "v1.5": ({"name": "resnet", "variant": "50"}, 32),
    "densenet": ({"name": "densenet", "variant": "121", "negative_slope": 0.1}, 33),
    "clip": (
        VIT
        | {"pre_norm": True, "projection": 5, "activation": "quick_gelu", "epsilon": 1e-5, **RGB},
        32,
    ),
    # 44 px: five and a half patches, and positions that are resampled.
    "registers": (VIT | {"registers": 2, "layer_scale": 0.1, "antialias": True}, 44),
    "mean": (VIT | {"variant": "128x1", "registers": 1, "pooling": "mean"}, 32),
    "fc_norm": (
        VIT | {"class_token": False, "pooling": "mean", "norm_after_pooling": True},
        32,
    ),
}


def _encoder(config, size):
    """With weights that keep an image's values about one, and no scale or statistic neutral."""
    model, rng = models.build(config), np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            deviation = np.prod(leaf.shape[:-1]) ** -0.5
            return rng.normal(0, deviation, leaf.shape).astype(np.float32)
        low, high = (0.5, 1.5) if name in ("scale", "var") else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    images = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), images)
    variables = jax.tree_util.tree_map_with_path(draw, dict(shapes))
    return Encoder("mine", config, {"batch_stats": {}} | variables, size)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """exported(encoder) -> the folder that the command writes of it."""
    monkeypatch.setitem(densenet.VARIANTS, "121", (1, 2))
    monkeypatch.setitem(resnet.VARIANTS, "18", {"stage_sizes": (1, 1), "widths": (8, 16)})
    fifty = {"stage_sizes": (1, 1), "widths": (8, 16), "bottleneck": True}
    monkeypatch.setitem(resnet.VARIANTS, "50", fifty)

    def export(encoder):
        write_folder(tmp_path / "ours", safetensors.export(encoder), card="")
        out = tmp_path / "out"
        return main([f"safetensors:{tmp_path / 'ours'}", "--format=onnx", f"--out={out}"])

    return export


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_gives_the_same_features_of_any_number_of_images(exported, case):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    config, size = CASES[case]
    encoder = _encoder(config, size)
    session = onnxruntime.InferenceSession(exported(encoder) / "model.onnx")
    images = np.random.default_rng(1).uniform(size=(3, size, size, 1)).astype(np.float32)
    ours = np.asarray(weights.features(encoder)(images))
    assert ours.std() > 0.05  # or near to nothing would be near to all
    for count in (3, 1):
        channels_first = images[:count].transpose(0, 3, 1, 2)
        (theirs,) = session.run(["features"], {"images": channels_first})
        np.testing.assert_allclose(theirs, ours[:count], atol=1e-5 * np.abs(ours).max())


def test_its_card_runs_and_says_that_images_are_normalised_inside(exported):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    config, size = CASES["small"]
    folder = exported(_encoder(config, size))
    card = (folder / "README.md").read_text()
    assert "pixels in [0, 1], as they are: (pixel - mean) / std with mean 0.5" in card
    assert not (folder / "model.safetensors").exists()
    images = np.zeros((2, 1, size, size), np.float32)
    lines = card.partition("```python\n")[2].partition("```")[0]
    names = {"images": images}
    exec(lines.replace("model.onnx", str(folder / "model.onnx")), names)
    assert names["features"].shape == (2, 128)
    content = onnx.load(folder / "model.onnx")
    assert "normalised inside" in content.doc_string
    assert [opset.version for opset in content.opset_import] == [17]


def test_without_the_package_the_error_says_what_to_install(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"--format=onnx needs the package onnx: pip install"):
        exported(_encoder(*CASES["small"]))

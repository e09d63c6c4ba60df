"""Encoders as ONNX, run by onnxruntime (skipped without onnx and onnxruntime)."""

import sys

import numpy as np
import pytest

from cxr_jax import weights
from cxr_jax.models import densenet, resnet
from cxr_jax.weights.export import main
from tests.weights.make_encoder import make_encoder

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
    "heads": (
        VIT
        | {"heads": 4, "hidden": 96, "activation": "gelu_tanh", "registers": 1}
        | {"pooling": "first_two"},
        32,
    ),
    "d and squeeze": ({"name": "resnet", "variant": "50", "d": True, "squeeze": True}, 40),
    "dinov3": (VIT | {"rope": "dinov3", "registers": 1, "activation": "swiglu"}, 48),
    "eva and siglip": (
        VIT
        | {"rope": "eva", "mlp_norm": True, "heads": 2}
        | {"class_token": False, "pooling": "attention"},
        32,
    ),
    "fc_norm": (
        VIT | {"class_token": False, "pooling": "mean", "norm_after_pooling": True},
        32,
    ),
}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """exported(case) -> (encoder, size, the folder that the command writes of it)."""
    monkeypatch.setitem(densenet.VARIANTS, "121", (1, 2))
    monkeypatch.setitem(resnet.VARIANTS, "18", {"stage_sizes": (1, 1), "widths": (8, 16)})
    fifty = {"stage_sizes": (1, 1), "widths": (8, 16), "bottleneck": True}
    monkeypatch.setitem(resnet.VARIANTS, "50", fifty)

    def export(case):
        config, size = CASES[case]
        encoder, source = make_encoder(config, size, tmp_path / "ours")
        return encoder, size, main([source, "--format=onnx", f"--out={tmp_path / 'out'}"])

    return export


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_gives_the_same_features_of_any_number_of_images(exported, case):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder, size, folder = exported(case)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
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
    _, size, folder = exported("small")
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
        exported("small")

import json

import numpy as np
import pytest

from cxr_jax import weights
from cxr_jax.weights.encoder import random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import huggingface, safetensors, timm


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """cached(name, exported) puts a repository into a hub's cache as its tools do."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(name, exported):
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("abc123")
        write_folder(repository / "snapshots/abc123", exported, card="")
        return repository / "snapshots/abc123"

    return put


def test_names_of_the_hub_are_read_from_its_cache(cached):
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 16}
    encoder = random_encoder(model | {"mean": (0.4,), "std": (0.3,)}, image_size=24, seed=0)
    cached("someone/dino-images", huggingface.export(encoder))
    cached("someone/vit.of-timm", timm.export(encoder))
    # Larger than its positions were learnt for: they go out resampled.
    images = np.random.default_rng(0).uniform(size=(2, 24, 24, 1)).astype(np.float32)
    reference = weights.features(encoder)(images)
    for name in ("dino-images", "vit.of-timm"):
        again = weights.load(f"hf:someone/{name}")
        assert (again.name, again.image_size) == (name, 24)
        np.testing.assert_allclose(weights.features(again)(images), reference, atol=1e-5)


def test_what_the_cache_lacks_or_has_of_another_kind_is_named(cached):
    with pytest.raises(FileNotFoundError, match=r"cache.*hf download someone/absent"):
        weights.load("hf:someone/absent")
    with pytest.raises(ValueError, match="write hf:OWNER/NAME"):
        weights.load("hf:absent")
    encoder = random_encoder({"name": "resnet", "variant": "small"}, image_size=32, seed=0)
    folder = cached("someone/other", safetensors.export(encoder))
    (folder / "config.json").write_text(json.dumps({"model_type": "swin"}))
    with pytest.raises(ValueError, match=r"someone/other is of kind 'swin'; read are dinov2"):
        weights.load("hf:someone/other")
    (folder / "model.safetensors").unlink()  # a download that was stopped
    with pytest.raises(FileNotFoundError, match="hf download someone/other"):
        weights.load("hf:someone/other")

"""Finding and reading encoders: specs, workdirs, and names of Hugging Face's hub."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, weights
from cxr_jax.training import checkpoint
from cxr_jax.training.step import TrainState
from cxr_jax.weights.encoder import random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import huggingface, safetensors, timm

IMAGENET = Path(__file__).parents[3] / "shared/realdata/weights/resnet50_imagenet_v1_fp16.npz"


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("torchvision_v1:/a/b.npz", ("torchvision_v1", "/a/b.npz")),
        ("torchvision:b:c.pth", ("torchvision", "b:c.pth")),
        ("/a/b.npz", (None, "/a/b.npz")),
        ("runs/x:y", (None, "runs/x:y")),
        ("gs://bucket/x", (None, "gs://bucket/x")),
        ("random", (None, "random")),
    ],
)
def test_parse_spec(spec, parsed):
    assert weights.parse_spec(spec) == parsed


def test_an_unknown_source_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no weights source 'caffe'.*torchvision, torchvision_v1"):
        weights.load("caffe:/a/b.npz")
    with pytest.raises(ValueError, match="no weights source 'encoder'"):
        weights.load("encoder:/a/b.npz")


def test_random_encoder_is_the_model_as_initialised_and_differs_by_seed():
    config = {"name": "resnet", "variant": "small"}
    encoder = weights.random_encoder(config, image_size=32, seed=3)
    assert (encoder.name, encoder.image_size) == ("random", 32)
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
    net = models.build(config)
    init = jax.jit(
        net.init, static_argnums=2, compiler_options={"xla_backend_optimization_level": 0}
    )
    expected = init(jax.random.key(3), images, True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), encoder.variables, expected)
    ours = weights.features(encoder)(images)
    np.testing.assert_allclose(ours, net.apply(expected, images, False), rtol=1e-5, atol=1e-6)
    other = weights.random_encoder(config, image_size=32, seed=4)
    drawn, redrawn = (e.variables["params"]["conv1"]["kernel"] for e in (encoder, other))
    assert np.abs(drawn - redrawn).max() > 0.01


@pytest.mark.skipif(not IMAGENET.exists(), reason="the shared real data are not here")
def test_imagenet_features_tell_a_bright_from_a_dark_and_a_smooth_from_a_striped_image():
    encoder = weights.load(f"torchvision_v1:{IMAGENET}")
    with np.load(IMAGENET) as file:
        used = [np.asarray(leaf) for leaf in jax.tree.leaves(encoder.variables)]
        assert len(used) == len(file.files)
        assert sum(leaf.size for leaf in used) == sum(file[key].size for key in file.files)
        # Sums over all files' values: nothing was read twice in another's place.
        ours = np.sort([leaf.astype(np.float64).sum() for leaf in used])
        theirs = np.sort([file[key].astype(np.float64).sum() for key in file.files])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-2)
    ramp = jnp.linspace(0, 1, 96)[None, :, None]
    noise = jax.random.uniform(jax.random.key(0), (6, 96, 96, 1)) * 0.1
    stripes = (jnp.arange(96) // 4 % 2)[None, :, None]
    images = jnp.clip(noise + jnp.stack([ramp, stripes])[jnp.arange(6) % 2] * 0.9, 0, 1)
    features = weights.features(encoder)(images)
    assert features.shape == (6, 2048)
    assert np.isfinite(features).all()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = unit @ unit.T
    same = similar[np.arange(6)[:, None] % 2 == np.arange(6) % 2]
    different = similar[np.arange(6)[:, None] % 2 != np.arange(6) % 2]
    assert same.min() > different.max() + 0.05


def test_folders_that_hold_no_encoder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not the workdir of a pretraining: no config"):
        weights.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "transfer"}))
    with pytest.raises(ValueError, match="workdir of a transfer run"):
        weights.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "pretrain"}))
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        weights.load(f"workdir:{tmp_path}")


def test_random_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"not an encoder by itself.*weights\.random_encoder\("):
        weights.load("random")


def test_an_encoder_without_batch_norm_comes_back_whole_and_in_silence(tmp_path, caplog):
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 16}
    encoder = random_encoder(model, image_size=16, seed=0)
    config = {"experiment": "pretrain", "objective": {"name": "simclr"}, "image_size": 16}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": model}))
    state = TrainState(jnp.int32(7), {"w": jnp.ones(2)}, {}, (), jax.random.PRNGKey(0))
    with checkpoint.open_manager(tmp_path, 1) as manager:
        checkpoint.save(manager, state, encoder.variables, {}, config)
    caplog.clear()
    again = weights.load(str(tmp_path))
    assert not caplog.records
    assert (again.name, again.model, again.image_size) == ("simclr step 7", model, 16)
    assert again.variables["batch_stats"] == {}
    jax.tree.map(np.testing.assert_array_equal, again.variables, encoder.variables)


def test_a_config_that_was_changed_after_the_checkpoint_is_refused(tmp_path):
    """config.json has no hash; its copy in the checkpoint has one."""
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 16, "mean": [0.5]}
    config = {"experiment": "pretrain", "objective": {"name": "simclr"}, "image_size": 16}
    config["model"] = model | {"std": [0.25]}
    state = TrainState(jnp.int32(7), {"w": jnp.ones(2)}, {}, (), jax.random.PRNGKey(0))
    with checkpoint.open_manager(tmp_path, 1) as manager:
        checkpoint.save(manager, state, {"params": {"w": jnp.ones(2)}}, {}, config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert weights.load(str(tmp_path)).model == config["model"]
    for changed, message in (
        ({"model": model | {"std": [0.2]}}, "model is not what checkpoint 7 was saved with"),
        ({"image_size": 17}, "image_size is not what checkpoint 7"),
        ({"objective": {"name": "sim\nclr"}}, "has no objective's name"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
            weights.load(str(tmp_path))


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
    with pytest.raises(ValueError, match=r"someone/other: .*kind 'swin'; read are timm, dinov2"):
        weights.load("hf:someone/other")
    (folder / "model.safetensors").unlink()  # a download that was stopped
    with pytest.raises(FileNotFoundError, match="hf download someone/other"):
        weights.load("hf:someone/other")

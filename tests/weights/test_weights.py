from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import models, weights

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

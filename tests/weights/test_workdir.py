import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxr_jax import weights
from cxr_jax.training import checkpoint
from cxr_jax.training.state import TrainState
from cxr_jax.weights.encoder import random_encoder


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

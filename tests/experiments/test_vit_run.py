"""A model without batch norm goes the whole way: pretrained, saved, loaded."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cxr_jax import weights
from cxr_jax.experiments import pretrain

VIT = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32, "layer_scale": 0.1}


def test_a_vit_is_pretrained_saved_and_loaded(tiny_config, tmp_path):
    config = tiny_config("simclr")
    config.model = ConfigDict(VIT)
    config.num_train_steps = 2
    state = pretrain.train(config, tmp_path)
    encoder = weights.load(str(tmp_path))
    assert encoder.variables["batch_stats"] == {}
    jax.tree.map(
        np.testing.assert_array_equal, encoder.variables["params"], state.params["encoder"]
    )
    films = np.random.default_rng(0).uniform(size=(3, 32, 32, 1)).astype(np.float32)
    features = weights.features(encoder)(films)
    assert features.shape == (3, 64) and np.isfinite(features).all()

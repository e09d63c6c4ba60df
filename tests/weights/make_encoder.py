"""An encoder of random weights in a folder of our own format."""

import jax
import numpy as np

from cxr_jax import models
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors


def make_encoder(config, size, folder):
    """Returns the encoder, and how it is called; no scale or statistic of it is neutral."""
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
    variables = {"batch_stats": {}} | jax.tree_util.tree_map_with_path(draw, dict(shapes))
    encoder = Encoder("mine", config, variables, size)
    write_folder(folder, safetensors.export(encoder), card="")
    return encoder, f"safetensors:{folder}"

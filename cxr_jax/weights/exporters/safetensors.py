"""cxr_jax's own format: every encoder, read back by the weights source `safetensors`."""

import jax
import numpy as np

from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported


def export(encoder: Encoder) -> Exported:
    """Writes the variables under our own names, and the model's config."""
    leaves = jax.tree_util.tree_leaves_with_path(encoder.variables)
    tensors = {".".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}
    facts = {name: value for name, value in encoder._asdict().items() if name != "variables"}
    usage = """import cxr_jax
encoder = cxr_jax.load_encoder("safetensors:FOLDER")
features = encoder(images)  # paths or arrays"""
    return Exported(tensors, {"cxr_jax.json": facts}, usage, normalises=True)

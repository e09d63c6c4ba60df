"""Self-supervised pretraining of chest X-ray encoders in JAX, and honest tests of its worth.

encoder = cxr_jax.load_encoder("runs/mine")
features = encoder(["image.dcm", "image.png"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_jax.weights.encoder import ImageEncoder


def load_encoder(spec: str) -> ImageEncoder:
    """Loads what turns images into features, from a pretraining's workdir or "<source>:<file>".

    See `cxr_jax.weights.encoder.ImageEncoder` for what it takes, `cxr_jax.weights.load` for what
    it raises.
    """
    # Imported here: JAX and Flax take seconds, and half of the package does without them.
    from cxr_jax.weights import load
    from cxr_jax.weights.encoder import ImageEncoder

    return ImageEncoder(load(str(spec)))

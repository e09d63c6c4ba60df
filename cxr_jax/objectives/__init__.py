"""Self-supervised objectives, one file each: `build(config)` -> pure functions."""

from cxr_jax import plugins
from cxr_jax.config import Section
from cxr_jax.objectives._base import (
    IMAGE,
    Field,
    Objective,
    batch_shapes,
    l2_normalise,
    no_change,
    online_encoder,
)

__all__ = [
    "IMAGE",
    "Field",
    "Objective",
    "batch_shapes",
    "build",
    "l2_normalise",
    "no_change",
    "online_encoder",
]


def build(config: Section) -> Objective:
    """Returns `cxr_jax.objectives.<config.objective.name>.make(config)`.

    Raises ValueError for a name that is no objective of this folder, naming those it holds.
    """
    make = plugins.find(__name__, config["objective"]["name"], "make", "objective")
    return make(config)

"""Encoders, one file each: `build({"name": "resnet", "variant": "50"})`.

A module maps images [b h w 1] and `train` to features [b d]; its `depth(name)` says at which depth,
from 0, the parameters called `name` at its top level lie (for layer-wise learning rates).

For saliency a module has two methods more: `maps(images, train)`, a map [b i j c] of the image, and
`pool(maps)`, the features that it makes of it. A ViT offers its patch tokens as they enter the last
block, with i x j patches; its `pool` is that block and the rest. The image's class token, as it is
by then, travels behind them and passes no gradient: what it gathered has no place on the image.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from cxr_jax import plugins


def build(model_config: Mapping[str, Any] | Any) -> nn.Module:
    """Returns `cxr_jax.models.<name>.make(**rest)` for a mapping with "name" and the rest.

    Raises ValueError for a name that is no file of this folder, or a field `make` does not take.

    >>> build({"name": "resnet", "variant": "50"}).stage_sizes
    (3, 4, 6, 3)
    """
    fields = dict(model_config)
    name = fields.pop("name", None)
    make = plugins.find(__name__, name, "make", "model")
    try:
        inspect.signature(make).bind(**fields)
    except TypeError as error:
        known = ", ".join(inspect.signature(make).parameters)
        raise ValueError(f"config.model for {name!r}: {error}; its fields are: {known}") from error
    return make(**fields)

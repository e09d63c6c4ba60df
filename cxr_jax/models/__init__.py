"""Encoders, one file each: `build({"name": "resnet", "variant": "50"})`.

Fields of config.model:

name       a file of cxr_jax/models
variant    its size
mean, std  of the pixels in [0, 1], one each or one per channel of three
dtype      of the computation, "float32" or "bfloat16"; weights are float32
remat      activations are computed again for the gradient, block by block, and not kept: a fraction
           of the memory, a third more time

A module with batch norm has the field `norm_eval`, by which its statistics stay as they are.

A module maps images [b h w 1] and `train` to features [b d]; its `depth(name)` says at which depth,
from 0, the parameters called `name` at its top level lie (for layer-wise learning rates).

For saliency a module has two methods more: `maps(images, train)`, a map [b i j c] of the image, and
`pool(maps)`, the features that it makes of it. A ViT offers its patch tokens as they enter the last
block, with i x j patches; its `pool` is that block and the rest. The image's class token, as it is
by then, travels behind them and passes no gradient: what it gathered has no place on the image.

For probes of an image's parts a module whose `maps` are not that has a third method:
`patch_maps(images)`, the parts' features [b i j d], as the encoder leaves them.
"""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from cxr_jax import plugins

# Fields that say how an encoder computes or is trained, or what it is before it has weights.
FREE = ("dtype", "remat", "zero_init_residual", "norm_eval")


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


def differences(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the fields of one model's config that another's has otherwise, with both values.

    Of `given` a field left out is `make`'s default; `wanted` leaves open what it does not name.
    Those in FREE do not count.

    >>> differences({"name": "resnet", "variant": "50"}, {"name": "resnet", "variant": "18"})
    {'variant': ('50', '18')}
    """
    names = ["name"]
    if wanted["name"] == given["name"]:
        make = plugins.find(__name__, given["name"], "make", "model")
        fields = inspect.signature(make).parameters.values()
        defaults = {field.name: field.default for field in fields}
        given = defaults | dict(given)
        names = [name for name in wanted if name not in FREE]

    def plain(value: Any) -> str:
        return json.dumps(value, default=str)  # a tuple is as a list

    both = {name: (wanted[name], given.get(name)) for name in names}
    return {name: pair for name, pair in both.items() if plain(pair[0]) != plain(pair[1])}

"""Encoders, one file each: `build({"name": "resnet", "variant": "50"})`."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from flax import linen as nn


def build(model_config: Mapping[str, Any] | Any) -> nn.Module:
    """The module `cxr_jax.models.<name>.make(**rest)` for a mapping with "name" and the rest.

    Raises ValueError for a name that is no file of this folder, or a field `make` does not take.
    """
    fields = dict(model_config)
    name = fields.pop("name", None)
    files = [file.name for file in pkgutil.iter_modules(__path__)]
    module = importlib.import_module(f"{__name__}.{name}") if name in files else None
    if not hasattr(module, "make"):
        modules = {file: importlib.import_module(f"{__name__}.{file}") for file in files}
        models = ", ".join(file for file, module in modules.items() if hasattr(module, "make"))
        raise ValueError(f"no model {name!r} in cxr_jax/models; it holds: {models}")
    make = module.make
    try:
        inspect.signature(make).bind(**fields)
    except TypeError as error:
        known = ", ".join(inspect.signature(make).parameters)
        raise ValueError(f"config.model for {name!r}: {error}; its fields are: {known}") from error
    return make(**fields)

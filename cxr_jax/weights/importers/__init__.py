"""The sources of weights: each public file's SOURCES says by name how one is read, `load(path)`.

A loader returns an `Encoder`. It raises FileNotFoundError, and ValueError with the file's name and
all that does not fit.
"""

import importlib
import pkgutil
from collections.abc import Callable

from cxr_jax.weights.encoder import Encoder


def sources() -> dict[str, Callable[[str], Encoder]]:
    """Returns the loaders of all files in this folder by the name that a user gives.

    >>> sources()["torchvision"].__module__
    'cxr_jax.weights.importers.cnns'
    """
    files = [file.name for file in pkgutil.iter_modules(__path__) if file.name[0] != "_"]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in files]
    return {name: load for module in modules for name, load in module.SOURCES.items()}

"""Finds a file by the name that a user gives: to add a file to a room is to add a choice."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from cxr_jax.io.text import did_you_mean


def find(room: str, name: str | None, function: str, kind: str) -> Callable[..., Any]:
    """Returns `function` of the module `name` in a package; helpers (`_x.py`) do not count.

    Raises ValueError, naming the choices, if there is no such module or it has no such function;
    `kind` is what the message calls them.

    >>> find("cxr_jax.models", "resnet", "make", "model").__module__
    'cxr_jax.models.resnet'
    """
    package = importlib.import_module(room)
    found = [file.name for file in pkgutil.iter_modules(package.__path__)]
    files = [name for name in found if not name.startswith("_")]
    module = importlib.import_module(f"{room}.{name}") if name in files else None
    if hasattr(module, function):
        return getattr(module, function)
    modules = {file: importlib.import_module(f"{room}.{file}") for file in files}
    known = [file for file, module in modules.items() if hasattr(module, function)]
    raise ValueError(
        f"no {kind} {name!r} in {room.replace('.', '/')};{did_you_mean(str(name), known).lower()} "
        f"it holds: {', '.join(known)}"
    )

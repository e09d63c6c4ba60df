"""Encoders from files, one source format per file: `load("torchvision_v1:/path/to/file.npz")`."""

import importlib
import pkgutil
import re
from pathlib import Path

from cxr_jax.weights.encoder import Encoder, features, random_encoder

__all__ = ["Encoder", "features", "load", "parse_spec", "random_encoder"]


def parse_spec(spec: str) -> tuple[str | None, str]:
    """ "torchvision_v1:/path" -> ("torchvision_v1", "/path"); without a source (None, spec).

    Only a name can be a source: "gs://bucket/x" and "/a:b.npz" are paths.
    """
    match = re.fullmatch(r"([A-Za-z_]\w*):(?!//)(.*)", spec, re.DOTALL)
    return (match[1], match[2]) if match else (None, spec)


def load(spec: str) -> Encoder:
    """The encoder at `spec`: "<source>:<path>", or a path alone.

    A folder alone is read as source "workdir", a file alone as source "torchvision".

    Raises ValueError for an unknown source (naming those there are) or a file that does not fit,
    FileNotFoundError.
    """
    source, path = parse_spec(spec)
    path = str(Path(path).expanduser())
    if source is None:
        source = "workdir" if Path(path).is_dir() else "torchvision"
    files = [file.name for file in pkgutil.iter_modules(__path__)]
    reader = importlib.import_module(f"{__name__}.{source}") if source in files else None
    if not hasattr(reader, "load"):
        modules = {file: importlib.import_module(f"{__name__}.{file}") for file in files}
        sources = ", ".join(file for file, module in modules.items() if hasattr(module, "load"))
        raise ValueError(f"no weights source {source!r} in cxr_jax/weights; it holds: {sources}")
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no workdir or weights file {path} (from {Path.cwd()})")
    return reader.load(path)

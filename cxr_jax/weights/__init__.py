"""Encoders from files, one source format per file: `load("torchvision_v1:/path/to/file.npz")`."""

import importlib
import pkgutil
import re
from pathlib import Path

from cxr_jax.weights.encoder import Encoder, features, random_encoder

__all__ = ["Encoder", "features", "load", "parse_spec", "random_encoder"]

_HELPERS = ("checkpoint_files", "encoder", "torch_zip")


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
    sources = [m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS]
    if source is None:
        source = "workdir" if Path(path).is_dir() else "torchvision"
    if source not in sources:
        raise ValueError(
            f"no weights source {source!r} in cxr_jax/weights; it holds: {', '.join(sources)}"
        )
    return importlib.import_module(f"{__name__}.{source}").load(path)

"""Small text files of a raw dataset, read whole: reports, lists of names."""

from __future__ import annotations

from pathlib import Path

from cxr_jax.io import text
from data_builders.base.records import BuildError


def read(path: Path) -> bytes:
    """Reads the file's bytes; raises BuildError for one longer than text.MAX_BYTES."""
    try:
        return text.read_bytes(path)
    except ValueError as error:
        raise BuildError(str(error)) from error

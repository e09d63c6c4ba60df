"""A small file of text, whole: reports, lists of names, tables that are not CSV."""

from __future__ import annotations

from pathlib import Path

from data_builders.base.records import BuildError

# The longest of them, NIH's list of images, has 2 MB.
MAX_BYTES = 50_000_000


def read(path: Path, most: int = MAX_BYTES) -> bytes:
    """The file's bytes.

    Raises:
      BuildError: longer than `most` bytes.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BuildError(f"{path} is longer than {most:,} bytes. Restore the owner's file.")
    return content

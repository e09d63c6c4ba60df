"""Every dataset that has a fake of its owner's layout, by name."""

import importlib
from pathlib import Path

from data_builders import build

# Drawn, or nobody's layout.
WITHOUT_OWNER = ("phantom", "image_folder")


def names() -> list[str]:
    """Every public dataset; each must have a fake."""
    return [name for name in build.builder_names() if name not in WITHOUT_OWNER]


def write(name: str, folder: Path) -> dict:
    """Writes a dataset's raw layout, with its quirks, into a folder; returns its images by id."""
    written = importlib.import_module(f"tests.fakes.{name}").write(folder)
    return written[0] if isinstance(written, tuple) else written

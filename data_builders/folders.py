"""Finding things in a person's download: wrapping folders, droppings, missing files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from data_builders.records import BuildError


def find_root(manual_dir: Path, names: Sequence[str], what: str) -> Path:
    """The folder that holds one of `names` or its .gz: `manual_dir` or up to two folders below it.

    Archives unpack with and without a wrapping folder, and some with the folder nested twice.

    Raises:
      BuildError: nowhere; says `what` should be there.
    """
    level = [manual_dir]
    for _ in range(3):
        for folder in level:
            if any((folder / n).exists() or (folder / f"{n}.gz").exists() for n in names):
                return folder
        level = [
            Path(entry.path)
            for folder in level
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if entry.is_dir() and not is_dropping(entry.name)
        ]
    raise BuildError(
        f"{manual_dir} holds no {' or '.join(names)}, nor does a folder below it. Expected {what}"
    )


def optional(root: Path, *names: str) -> Path | None:
    """The first of `names` that exists in `root`, also as .gz; None if there is none."""
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def require(root: Path, *names: str) -> Path:
    """The first of `names` that exists in `root`, also as .gz.

    Raises:
      BuildError: none exists.
    """
    if path := optional(root, *names):
        return path
    raise BuildError(f"{root / names[0]} is missing" + "".join(f" (or {n})" for n in names[1:]))


def files_below(root: Path) -> Iterator[Path]:
    """Every file of the tree in sorted order, without macOS's and hidden ones."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not is_dropping(name))
        for name in sorted(names):
            if not is_dropping(name):
                yield Path(folder, name)


def by_stem(root: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """File name without suffix -> file, for the files of the tree with one of `suffixes` (".png").

    Of two copies the first in sorted order is taken; a tree that does not exist is empty.
    """
    found = [path for path in files_below(root) if path.suffix.lower() in suffixes]
    return {path.stem: path for path in reversed(found)}


def is_dropping(name: str) -> bool:
    """Whether a name is one that archives and desktops leave behind (__MACOSX, .DS_Store, ._x)."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")

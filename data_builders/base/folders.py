"""Finding things in a person's download: wrapping folders, droppings, missing files."""

from __future__ import annotations

import collections
import filecmp
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_builders.base.records import BuildError, Skipped

# Pictures that a folder may hold and that no reader here understands.
OTHER_PICTURES = frozenset({".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".nii", ".mha"})


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
        contents = [_read_folder(os.fspath(folder)) for folder in level]
        level = [Path(path) for content in contents for path in (*content.folders, *content.links)]
    raise BuildError(
        f"{manual_dir} holds no {' or '.join(names)}, nor does a folder below it. {what}"
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


def files_below(root: Path, leave_out: Iterable[Path] = ()) -> Iterator[Path]:
    """Every file of the tree, without macOS's and hidden ones; none if there is no such tree.

    Links to folders are followed, but a folder is read once: in sorted order, first those that lie
    in the tree, then those that only links lead to. A link to a folder around the tree leads
    nowhere new and is not followed.

    Args:
      leave_out: folders whose files are left out.

    Raises:
      BuildError: a name that is not UTF-8, which no list of the dataset could hold.
    """
    if not root.is_dir():
        return
    seen = {_identity(folder) for folder in root.resolve().parents}
    seen |= {_identity(folder) for folder in leave_out if folder.is_dir()}
    linked = collections.deque([os.fspath(root)])
    while linked:
        waiting = [linked.popleft()]
        while waiting:
            folder = waiting.pop()
            if _is_new(folder, seen):
                content = _read_folder(folder)
                yield from (Path(path) for path in content.files)
                waiting.extend(reversed(content.folders))
                linked.extend(content.links)


def unique(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    """Key -> file, the first where several identical copies have the same key.

    Raises:
      BuildError: files that differ have the same key, so that one would pass for the other.
    """
    found: dict[str, Path] = {}
    for path in paths:
        first = found.setdefault(key(path), path)
        if first is not path and not _same_content(first, path):
            raise BuildError(
                f"{first} and {path} differ, but either could be {key(path)}. Keep the owner's, "
                "and move the other out of the folder."
            )
    return found


def by_stem(root: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """File name without suffix -> file, for the files of the tree with one of `suffixes` (".png").

    Raises:
      BuildError: as `unique`.
    """
    images = (path for path in files_below(root) if path.suffix.lower() in suffixes)
    return unique(images, lambda path: path.stem)


def not_listed(
    files: Mapping[str, Path], listed: Container[str], root: Path, reason: str
) -> Iterator[Skipped]:
    """Yields the files whose keys are not in `listed`, named below `root`, as skipped."""
    for key in sorted(key for key in files if key not in listed):
        yield Skipped(files[key].relative_to(root).as_posix(), reason)


def is_dropping(name: str) -> bool:
    """Whether a name is one that archives and desktops leave behind (__MACOSX, .DS_Store, ._x)."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


class _Content(NamedTuple):
    """Paths of what lies in a folder, each in sorted order."""

    files: list[str]
    folders: list[str]
    links: list[str]  # to folders


def _read_folder(folder: str) -> _Content:
    content = _Content([], [], [])
    try:
        with os.scandir(folder) as stream:
            entries = [entry for entry in stream if not is_dropping(entry.name)]
    except OSError:  # not ours to read, as lost+found
        return content
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            entry.name.encode()
        except UnicodeEncodeError as error:
            raise BuildError(f"{entry.path!r}: its name is not UTF-8; rename it.") from error
        if _is_special(entry):
            continue
        if not _is_folder(entry):
            content.files.append(entry.path)
        elif entry.is_symlink():
            content.links.append(entry.path)
        else:
            content.folders.append(entry.path)
    return content


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: os.DirEntry) -> bool:
    """Whether it is a pipe, a socket or a device, which to open may wait for ever."""
    return not (
        entry.is_symlink()
        or entry.is_file(follow_symlinks=False)
        or entry.is_dir(follow_symlinks=False)
    )


def _is_new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder that can be read is not in `seen`, to which it is added."""
    try:
        identity = _identity(folder)
    except OSError:
        return False
    if identity in seen:
        return False
    seen.add(identity)
    return True


def _identity(folder: str | Path) -> tuple[int, int]:
    """Device and inode, the same by whatever path or link."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _same_content(first: Path, second: Path) -> bool:
    """Compares sizes, then bytes."""
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:  # a link that leads nowhere
        return False

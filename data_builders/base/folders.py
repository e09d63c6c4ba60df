"""Finding and reading files in a person's download: wrapping folders, leftovers, missing files.

Images stay inside the folders that were given, whatever a table or a link in a download says.
"""

import collections
import filecmp
import functools
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cxr_jax.io import text
from data_builders.base.records import BuildError, Record, Skipped

# Pictures that a folder may hold and that no reader here understands.
OTHER_PICTURES = frozenset({".bmp", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".nii", ".mha"})
_DROPPINGS = frozenset(
    {
        *("__macosx", "thumbs.db", "desktop.ini", "lost+found"),
        *("@eadir", "#recycle", "$recycle.bin", "system volume information"),
    }
)
LEADS_OUT = "a link that leads out of its folder (--follow_links, if the links are yours)"


def find_root(manual_dir: Path, names: Sequence[str], what: str) -> Path:
    """Finds the folder with one of `names` or its .gz: `manual_dir` or up to two folders below it.

    Archives unpack with and without a wrapping folder, and some with the folder nested twice.
    Raises BuildError if there is none, when the message ends with `what` should be there, or there
    are two side by side.
    """
    level = [manual_dir]
    for _ in range(3):
        found = [
            folder
            for folder in level
            if any((folder / n).exists() or (folder / f"{n}.gz").exists() for n in names)
        ]
        if len(set(map(_identity, found))) > 1:
            raise BuildError(
                f"{found[0]} and {found[1]}: two releases? Give the path of one, not of a folder "
                "above both."
            )
        if found:
            return found[0]
        contents = [_read_folder(os.fspath(folder)) for folder in level]
        level = [Path(path) for content in contents for path in (*content.folders, *content.links)]
    raise BuildError(
        f"{manual_dir} holds no {' or '.join(names)}, nor does a folder below it. {what}"
    )


def optional(root: Path, *names: str) -> Path | None:
    """Returns the first of `names` that exists in `root`, also as .gz; None if none does."""
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def require(root: Path, *names: str) -> Path:
    """Returns the first of `names` that exists in `root`, also as .gz; BuildError if none does."""
    if path := optional(root, *names):
        return path
    raise BuildError(f"{root / names[0]} is missing" + "".join(f" (or {n})" for n in names[1:]))


def files_below(root: Path, leave_out: Iterable[Path] = ()) -> Iterator[Path]:
    """Yields every file of the tree but macOS's and hidden ones; none if there is no such tree.

    Links to folders are followed, but a folder is read once: in sorted order, first those that lie
    in the tree, then those that only links lead to. A link to a folder around the tree leads
    nowhere new and is not followed.

    The files of the folders `leave_out` are left out. Raises BuildError for a name that is not
    UTF-8, which no list of the dataset could hold, and OSError for a folder that cannot be read,
    whose images would be missing without a word.
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
            identity = _identity(folder)
            if identity not in seen:
                seen.add(identity)
                content = _read_folder(folder)
                yield from (Path(path) for path in content.files)
                waiting.extend(reversed(content.folders))
                linked.extend(content.links)


def unique(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    """Maps keys, in composed Unicode, to files: the first of several identical copies.

    Raises BuildError if files that differ have one key, so that one would pass for the other.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = text.composed(key(path))
        first = found.setdefault(name, path)
        if first is not path and not _same_content(first, path):
            raise BuildError(
                f"{first} and {path} differ, but either could be {name}. Keep the owner's, "
                "and move the other out of the folder."
            )
    return found


def by_key(
    paths: Iterable[Path], suffixes: Collection[str], key: Callable[[Path], str]
) -> dict[str, Path]:
    """Maps keys to those of the files that have one of `suffixes` (".png"), as `unique`."""
    return unique((path for path in paths if path.suffix.lower() in suffixes), key)


def by_stem(root: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Maps names without suffix to the tree's files with one of `suffixes`, as `unique`."""
    return by_key(files_below(root), suffixes, lambda path: path.stem)


def not_listed(
    files: Mapping[str, Path], listed: Container[str], root: Path, reason: str
) -> Iterator[Skipped]:
    """Yields the files whose keys are not in `listed`, named below `root`, as skipped."""
    for key in sorted(key for key in files if key not in listed):
        yield Skipped(files[key].relative_to(root).as_posix(), reason)


def is_dropping(name: str) -> bool:
    """Checks for a name that archives, desktops and disks leave behind: thumbnails, deleted files.

    >>> is_dropping("__MACOSX"), is_dropping("._image.png"), is_dropping("image.png")
    (True, True, False)
    """
    return name.startswith(".") or name.casefold() in _DROPPINGS


def read_bytes(path: Path) -> bytes:
    """Reads a small text file whole: a report, a list of names; BuildError beyond 50 MB."""
    try:
        return text.read_bytes(path)
    except ValueError as error:
        raise BuildError(str(error)) from error


def separate(
    records: Iterable[Record], roots: Sequence[Path], follow_links: bool
) -> tuple[list[Record], list[Record]]:
    """Parts images inside `roots` from those that links lead to (none with `follow_links`).

    Raises BuildError if a path names another place or climbs out by "..", or all are linked.
    """
    within: list[Record] = []
    linked: list[Record] = []
    for record in records:
        _check_inside(record, roots)
        outside = not follow_links and leads_out(record, roots)
        (linked if outside else within).append(record)
    if linked and not within:
        raise BuildError(
            f"All images of {roots[0]} are reached through links that lead out of it. If the links "
            "are yours, allow them with --follow_links."
        )
    return within, linked


def leads_out(record: Record, roots: Sequence[Path]) -> bool:
    """Checks for an image that is, or is reached through, a link to a place outside all `roots`."""
    path = record.path
    if path is None:
        return False
    folder = _resolved(os.path.dirname(path))
    real = os.path.realpath(path) if os.path.islink(path) else folder
    return not _is_below(real, (_resolved(os.fspath(root)) for root in roots))


class _Content(NamedTuple):
    files: list[str]
    folders: list[str]
    links: list[str]  # to folders


def _read_folder(folder: str) -> _Content:
    content = _Content([], [], [])
    with os.scandir(folder) as stream:
        entries = [entry for entry in stream if not is_dropping(entry.name)]
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            entry.name.encode()
        except UnicodeEncodeError as error:
            raise BuildError(f"{entry.path!r}: its name is not UTF-8; rename it.") from error
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself
            is_folder = False
        if not (entry.is_symlink() or is_folder or entry.is_file(follow_symlinks=False)):
            continue  # a pipe, a socket or a device: to open one may wait for ever
        if not is_folder:
            content.files.append(entry.path)
        elif entry.is_symlink():
            content.links.append(entry.path)
        else:
            content.folders.append(entry.path)
    return content


def _identity(folder: str | Path) -> tuple[int, int]:
    """Returns device and inode, the same by whatever path or link."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _same_content(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:  # a link that leads nowhere
        return False


def _check_inside(record: Record, roots: Sequence[Path]) -> None:
    path = record.path
    if path is not None and not _is_below(os.path.abspath(path), map(os.path.abspath, roots)):
        raise BuildError(
            f"{record.row or record.image_id}: its image is not inside "
            f"{' or '.join(map(str, roots))}. A table names the images of its own folder; get the "
            "owner's."
        )


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


# Images share their folders, and to resolve one costs a look at each of its parents.
@functools.lru_cache(maxsize=100_000)
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)

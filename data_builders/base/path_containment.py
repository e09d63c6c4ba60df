"""Images stay inside the folders that were given, whatever a table or a link in a download says."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_builders.base.records import BuildError, Record

LEADS_OUT = "a link that leads out of its folder (--follow_links, if the links are yours)"


def separate(
    records: Iterable[Record], roots: Sequence[Path], follow_links: bool
) -> tuple[list[Record], list[Record]]:
    """The images inside `roots`, and those to which links lead from there (none: `follow_links`).

    Raises:
      BuildError: a path that names another place or climbs out by ".."; or links lead to all images.
    """
    within: list[Record] = []
    linked: list[Record] = []
    for record in records:
        _check(record, roots)
        outside = not follow_links and leads_out(record, roots)
        (linked if outside else within).append(record)
    if linked and not within:
        raise BuildError(
            f"All images of {roots[0]} are reached through links that lead out of it. If the links "
            "are yours, allow them with --follow_links."
        )
    return within, linked


def _check(record: Record, roots: Sequence[Path]) -> None:
    path = path_of(record)
    if path is not None and not _is_below(os.path.abspath(path), map(os.path.abspath, roots)):
        raise BuildError(
            f"{record.row or record.image_id}: its image is not inside "
            f"{' or '.join(map(str, roots))}. A table names the images of its own folder; get the "
            "owner's."
        )


def leads_out(record: Record, roots: Sequence[Path]) -> bool:
    """Whether the image, or a folder on the way to it, is a link to a place outside all `roots`."""
    path = path_of(record)
    if path is None:
        return False
    folder = _resolved(os.path.dirname(path))
    real = os.path.realpath(path) if os.path.islink(path) else folder
    return not _is_below(real, (_resolved(os.fspath(root)) for root in roots))


def path_of(record: Record) -> Path | None:
    """The file of an image, also of one that is read by a function with a `path`; None if drawn."""
    image = getattr(record.image, "path", record.image)
    return image if isinstance(image, Path) else None


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


# Images share their folders; to resolve one costs a look at each of its parents.
@functools.lru_cache(maxsize=100_000)
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)

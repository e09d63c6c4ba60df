"""skipped.csv: every file or row that gave no example, and when there are too many of them."""

from __future__ import annotations

import collections
import csv
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cxr_jax.io.atomic import atomic_write
from data_builders.base import folders
from data_builders.base.records import BuildError, Record, Skipped


def write(path: Path, skipped: Iterable[Skipped]) -> None:
    """Writes skipped.csv: columns file, reason."""
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(("file", "reason"))
        writer.writerows((entry.file, entry.reason) for entry in skipped)


def check(
    name: str, skipped: Sequence[Skipped], num_listed: int, max_skipped: float, path: Path
) -> None:
    """Refuses a build that would lose too many images, and leaves the list of them at `path`.

    What is left out as expected does not count.

    Args:
      num_listed: images and rows that the raw dataset lists.
      max_skipped: fraction of them that may be skipped.

    Raises:
      BuildError: more are; names the commonest reasons and the first files.
    """
    path.unlink(missing_ok=True)  # an earlier build's
    skipped = [entry for entry in skipped if not entry.expected]
    if len(skipped) <= max_skipped * num_listed:
        return
    write(path, skipped)
    share = len(skipped) / num_listed
    reasons = collections.Counter(entry.reason for entry in skipped).most_common(3)
    first = "; ".join(f"{entry.file} ({entry.reason})" for entry in skipped[:3])
    raise BuildError(
        f"{name}: {len(skipped):,} of {num_listed:,} images ({share:.1%}) cannot be used, more than "
        f"max_skipped={max_skipped:g} allows, so nothing was built. Most often: "
        f"{', '.join(f'{reason} ({count:,})' for reason, count in reasons)}. The first: {first}. "
        f"All of them are listed in {path}. Repair them, or allow this with "
        f"--max_skipped={math.ceil(100 * share) / 100:g}."
    )


def absent(records: Iterable[Record], manual_dir: Path | None) -> list[Skipped]:
    """The listed images that are not there, by `name_of`."""
    paths = ((record, folders.path_of(record)) for record in records)
    return [
        Skipped(name_of(record, manual_dir), "no such file")
        for record, path in paths
        if path is not None and not os.path.exists(path)
    ]


def name_of(record: Record, manual_dir: Path | None) -> str:
    """The image's name in skipped.csv; where there is no such file, its row: the name that a table
    gives could be another column's value, and a patient's."""
    path = folders.path_of(record)
    if record.row and (path is None or not os.path.exists(path)):
        return record.row
    return relative_name(path or record.image, manual_dir)


def relative_name(image: Any, manual_dir: Path | None) -> str:
    """The image's name in skipped.csv: its path below the manual folder where it has one."""
    if isinstance(image, Path) and manual_dir is not None and image.is_relative_to(manual_dir):
        return image.relative_to(manual_dir).as_posix()
    return str(image)

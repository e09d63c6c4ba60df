"""Record files of a split, written once and in order, in shards of bounded size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_builders.records import Record

# Small enough that hosts can share the shards of a dataset, large enough to be few.
SHARD_BYTES = 128 << 20


class Written(NamedTuple):
    """The shards of a split: their files, still without their final names, and sizes."""

    paths: list[Path]
    lengths: list[int]  # examples
    num_bytes: int


def write_shards(
    examples: Iterator[tuple[str, bytes]], adapter: Any, folder: Path, split: str
) -> Written:
    """Writes serialized examples in the order they come.

    The number of shards stands in TFDS's file names and is known only at the end; the caller
    renames the files.

    Args:
      examples: pairs of image_id and serialized example.
      adapter: TFDS's file adapter for the format.
    """
    written = Written([], [], 0)
    for first in examples:
        shard = _Shard(itertools.chain([first], examples))
        path = folder / f"{split}.shard-{len(written.paths)}"
        adapter.write_examples(path, shard)
        written = Written(
            [*written.paths, path],
            [*written.lengths, shard.length],
            written.num_bytes + shard.num_bytes,
        )
    return written


class _Shard:
    """Hands on examples until the shard is full, and counts them."""

    def __init__(self, examples: Iterator[tuple[str, bytes]]):
        self._examples = examples
        self.length = 0
        self.num_bytes = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for key, example in self._examples:
            self.length += 1
            self.num_bytes += len(example)
            yield key, example
            if self.num_bytes >= SHARD_BYTES:
                return


class Tally:
    """Counts what is written: images, patients, positives per label."""

    def __init__(self, label_names: Sequence[str]):
        self._images = 0
        self._patients: set[str] = set()
        self._positives = dict.fromkeys(label_names, 0)

    def add(self, record: Record) -> None:
        self._images += 1
        self._patients.add(record.patient_id)
        for name, value in record.labels.items():
            self._positives[name] += int(value == 1)

    def counts(self) -> dict[str, Any]:
        """{"images", "patients", "positives": {label: n}}, as metadata.json holds it."""
        return {
            "images": self._images,
            "patients": len(self._patients),
            "positives": self._positives,
        }

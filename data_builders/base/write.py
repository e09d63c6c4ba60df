"""Record files: which images go into which file, and how one file is written.

The images of a split are put in the order of a hash of their ids and cut into shards before any of
them is read. So one machine, which reads images on all cores and writes one shard after another,
and a Beam pipeline, whose workers take a shard each, write the same files byte for byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorflow_datasets.core import splits as tfds_splits

from data_builders.base import examples, parallel
from data_builders.base.records import SPLITS, BuildError, Record

# Small enough that hosts can share the shards of a dataset, large enough to be few.
SHARD_BYTES = 128 << 20
# An image at its own size, and a pixel of a smaller one, as JPEG of quality 95: what they may take.
FULL_IMAGE_BYTES = 1 << 20
PIXEL_BYTES = 0.5


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written: its split, its number within it, its images in order."""

    split: str
    number: int
    records: tuple[Record, ...]

    def path(self, folder: Path) -> Path:
        """Where it is written; its final name needs the number of shards that have images."""
        return folder / f"{self.split}.shard-{self.number}"


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a shard.

    Attributes:
      num_bytes: of the serialized examples.
      phashes: one a record; "" for an image that could not be read.
      reasons: one a record; "" for an image that stands in the file.
    """

    num_bytes: int
    phashes: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def length(self) -> int:
        """Images in the file."""
        return sum(not reason for reason in self.reasons)

    def save(self, path: Path) -> None:
        """Writes it as JSON beside the shard, for the process that gathers the shards."""
        path.with_suffix(path.suffix + ".json").write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Written:
        """Reads and removes what `save` wrote beside the shard."""
        beside = path.with_suffix(path.suffix + ".json")
        fields = json.loads(beside.read_text())
        beside.unlink()
        return cls(fields["num_bytes"], tuple(fields["phashes"]), tuple(fields["reasons"]))


def plan(records: Iterable[Record], resolution: int | None) -> list[Shard]:
    """Cuts every split into shards of about SHARD_BYTES, images in the order of a hash of their id.

    Args:
      resolution: pixels on the images' shorter side; None: their own size.
    """
    image_bytes = FULL_IMAGE_BYTES if resolution is None else PIXEL_BYTES * resolution**2
    length = max(1, int(SHARD_BYTES // image_bytes))
    by_split: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for record in records:
        by_split[record.split].append(record)
    shards = []
    for split, of_split in by_split.items():
        of_split.sort(key=_shuffle_key)
        shards += [
            Shard(split, start // length, tuple(of_split[start : start + length]))
            for start in range(0, len(of_split), length)
        ]
    return shards


@dataclasses.dataclass(frozen=True)
class Job:
    """How shards are written, in this process or on another machine.

    Attributes:
      folder: where they go.
      adapter: TFDS's file adapter for the format.
      resolution: pixels on the images' shorter side; None: their own size.
      encoding: of the stored images, "jpeg" or "png".
    """

    folder: Path
    serializer: examples.Serializer
    adapter: Any
    resolution: int | None
    encoding: str

    def prepare(self, image: Any) -> parallel.EncodedImage | parallel.Unreadable:
        """Reads an image and makes it as it is stored."""
        return parallel.prepare_image(image, self.resolution, self.encoding)

    def write(
        self, shard: Shard, images: Iterator[parallel.EncodedImage | parallel.Unreadable]
    ) -> Written:
        """Writes a shard; takes as many of `images`, prepared, as it has records."""
        sizes: list[int] = []
        phashes: list[str] = []
        reasons: list[str] = []

        def serialized() -> Iterator[tuple[str, bytes]]:
            for record in shard.records:
                image = next(images)
                readable = isinstance(image, parallel.EncodedImage)
                phashes.append(image.phash if readable else "")
                reasons.append("" if readable else image.reason)
                if readable:
                    example = self.serializer(record, image)
                    sizes.append(len(example))
                    yield record.image_id, example

        try:
            self.adapter.write_examples(shard.path(self.folder), serialized())
        except RuntimeError as error:  # ArrayRecord's, of a full disk or a limit
            raise BuildError(f"{shard.path(self.folder)} cannot be written: {error}") from error
        return Written(sum(sizes), tuple(phashes), tuple(reasons))

    def write_alone(self, shard: Shard) -> None:
        """Reads and writes a shard in this process; leaves beside it what became of its images."""
        written = self.write(shard, (self.prepare(record.image) for record in shard.records))
        written.save(shard.path(self.folder))


def write_all(
    plan: Sequence[Shard], job: Job, num_workers: int | None, progress: parallel.Progress
) -> list[Written]:
    """Writes shards one after another, their images read on all cores."""
    tagged = ((None, record.image) for shard in plan for record in shard.records)

    def images() -> Iterator[parallel.EncodedImage | parallel.Unreadable]:
        prepare = functools.partial(
            parallel.prepare_image, resolution=job.resolution, encoding=job.encoding
        )
        for _, image in parallel.parallel_map(prepare, tagged, num_workers):
            progress.step()
            yield image

    with contextlib.closing(images()) as prepared:
        return [job.write(shard, prepared) for shard in plan]


def finish(
    plan: Sequence[Shard], written: Sequence[Written], folder: Path, template_of: Any
) -> tuple[list[tfds_splits.SplitInfo], dict[str, list[tuple[Record, str]]]]:
    """Gives the files their final names; those without an image go.

    Args:
      template_of: TFDS's filename template of a split_name.

    Returns:
      TFDS's account of the splits, and the stored images of each in order, with their hashes.

    Raises:
      BuildError: a split of which no image could be read.
    """
    infos, stored = [], {}
    for split in dict.fromkeys(shard.split for shard in plan):
        pairs = [(s, w) for s, w in zip(plan, written, strict=True) if s.split == split]
        stored[split] = [
            (record, phash)
            for shard, result in pairs
            for record, phash, reason in zip(shard.records, result.phashes, result.reasons)
            if not reason
        ]
        if not stored[split]:
            raise BuildError(f"Not one image of {split!r} could be read.")
        kept = [(shard.path(folder), result) for shard, result in pairs if result.length]
        for shard, result in pairs:
            if not result.length:
                shard.path(folder).unlink()
        template = template_of(split_name=split)
        for index, (path, _) in enumerate(kept):
            path.rename(template.sharded_filepath(shard_index=index, num_shards=len(kept)))
        infos.append(
            tfds_splits.SplitInfo(
                name=split,
                shard_lengths=[result.length for _, result in kept],
                num_bytes=sum(result.num_bytes for _, result in kept),
                filename_template=template,
            )
        )
    return infos, stored


def _shuffle_key(record: Record) -> bytes:
    return hashlib.sha256(record.image_id.encode()).digest()

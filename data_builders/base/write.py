"""Record files: which images go into which file, and how files are written.

The images of a split are put in the order of a hash of their ids and cut into shards before any of
them is read. So one machine, which reads images on all cores and writes one shard after another,
and an Apache Beam pipeline, whose workers take a shard each, write the same files byte for byte.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.core import splits as tfds_splits
from tqdm import tqdm

from cxr_jax.io.dicom import OLDEST
from data_builders.base import parallel
from data_builders.base.records import SPLITS, BuildError, Record

# Small enough that hosts can share the shards of a dataset, large enough to be few.
SHARD_BYTES = 128 << 20
# Estimates of an image at its own size, and of a pixel of a smaller one, as JPEG of quality 95.
FULL_IMAGE_BYTES = 1 << 20
PIXEL_BYTES = 0.5


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written: its split, its number within the split, its images in order."""

    split: str
    number: int
    records: tuple[Record, ...]

    def path(self, folder: Path) -> Path:
        """Returns where it is written; its final name needs the number of shards with images."""
        return folder / f"{self.split}.shard-{self.number}"


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard that was written."""

    num_bytes: int  # of the serialized examples
    phashes: tuple[str, ...]  # one per record; "" for an image that could not be read
    reasons: tuple[str, ...]  # one per record, why not; "" for an image that is in the file
    refused: tuple[str, ...]  # one per record, why it has no masks; "" for one that has its own

    @property
    def length(self) -> int:
        """Number of images in the file."""
        return sum(not reason for reason in self.reasons)

    def save(self, shard: Path) -> None:
        """Writes it as JSON beside the shard, for the process that gathers the shards."""
        Path(f"{shard}.json").write_text(json.dumps(dataclasses.astuple(self)))

    @classmethod
    def load(cls, shard: Path) -> "Written":
        """Reads and removes what `save` wrote beside the shard."""
        beside = Path(f"{shard}.json")
        num_bytes, *texts = json.loads(beside.read_text())
        beside.unlink()
        return cls(num_bytes, *map(tuple, texts))


def plan(records: Iterable[Record], resolution: int | None) -> list[Shard]:
    """Cuts every split into shards of about SHARD_BYTES, images in the order of their ids' hash."""
    image_bytes = FULL_IMAGE_BYTES if resolution is None else PIXEL_BYTES * resolution**2
    length = max(1, int(SHARD_BYTES // image_bytes))
    by_split: dict[str, list[Record]] = {split: [] for split in SPLITS}
    for record in records:
        by_split[record.split].append(record)
    shards = []
    for split, of_split in by_split.items():
        of_split.sort(key=lambda record: hashlib.sha256(record.image_id.encode()).digest())
        shards += [
            Shard(split, start // length, tuple(of_split[start : start + length]))
            for start in range(0, len(of_split), length)
        ]
    return shards


class Serializer:
    """Serializes records and their images as stored examples; picklable, for other machines."""

    def __init__(self, features: tfds.features.FeaturesDict):
        self._features = features

    def __call__(self, record: Record, image: parallel.EncodedImage) -> bytes:
        every = {
            "image": image.image,
            "image_id": record.image_id,
            "patient_id": record.patient_id,
            "study_id": record.study_id,
            "projection": record.projection,
            "sex": record.sex,
            "age": record.age if 0 <= record.age <= OLDEST else math.nan,
            "phash": image.phash,
            "labels": dict(record.labels),
            "readers": list(record.readers),
            "masks": [{"label": name, "mask": mask} for name, mask in image.masks],
            "boxes": [dataclasses.asdict(box) for box in record.boxes],
            "report": record.report,
        }
        example = {name: every[name] for name in self._features}
        proto = self._serializer.get_tf_example(self._features.encode_example(example))
        # A map's fields have no order of their own: without this, equal builds differ in bytes.
        return proto.SerializeToString(deterministic=True)

    @functools.cached_property
    def _serializer(self) -> example_serializer.ExampleSerializer:
        return example_serializer.ExampleSerializer(self._features.get_serialized_info())

    def __getstate__(self) -> dict[str, Any]:
        return {"_features": self._features}


@dataclasses.dataclass(frozen=True)
class Job:
    """The settings that write shards, in this process or on another machine."""

    folder: Path
    serializer: Serializer
    adapter: Any  # TFDS's file adapter for the format
    resolution: int | None  # pixels on the images' shorter side; None: their own size
    encoding: str  # "jpeg" or "png"

    def prepare(self, image: Any) -> parallel.EncodedImage | parallel.Unreadable:
        """Reads an image and encodes it as it is stored."""
        return parallel.prepare_image(image, self.resolution, self.encoding)

    def write(
        self, shard: Shard, images: Iterator[parallel.EncodedImage | parallel.Unreadable]
    ) -> Written:
        """Writes a shard; takes as many prepared `images` as it has records."""
        sizes: list[int] = []
        phashes: list[str] = []
        reasons: list[str] = []
        refused: list[str] = []

        def serialized() -> Iterator[tuple[str, bytes]]:
            for record in shard.records:
                image = next(images)
                readable = isinstance(image, parallel.EncodedImage)
                phashes.append(image.phash if readable else "")
                reasons.append("" if readable else image.reason)
                refused.append(image.refused if readable else "")
                if readable:
                    example = self.serializer(record, image)
                    sizes.append(len(example))
                    yield record.image_id, example

        try:
            self.adapter.write_examples(shard.path(self.folder), serialized())
        except RuntimeError as error:  # ArrayRecord's, of a full disk or a limit
            raise BuildError(f"{shard.path(self.folder)} cannot be written: {error}") from error
        return Written(sum(sizes), tuple(phashes), tuple(reasons), tuple(refused))

    def write_alone(self, shard: Shard) -> None:
        """Reads and writes a shard in this process; leaves a `Written` beside it."""
        written = self.write(shard, (self.prepare(_to_read(record)) for record in shard.records))
        written.save(shard.path(self.folder))


def write_all(
    plan: Sequence[Shard], job: Job, num_workers: int | None, progress: tqdm
) -> list[Written]:
    """Writes shards one after another, their images read on all cores."""
    tagged = ((None, _to_read(record)) for shard in plan for record in shard.records)

    def images() -> Iterator[parallel.EncodedImage | parallel.Unreadable]:
        prepare = functools.partial(
            parallel.prepare_image, resolution=job.resolution, encoding=job.encoding
        )
        for _, image in parallel.parallel_map(prepare, tagged, num_workers):
            progress.update()
            yield image

    with contextlib.closing(images()) as prepared:
        return [job.write(shard, prepared) for shard in plan]


def _to_read(record: Record) -> parallel.ToRead:
    return parallel.ToRead(record.image, record.masks)


def write_with_beam(plan: Sequence[Shard], job: Job, runner: str, options: Any) -> list[Written]:
    """Writes every shard through a Beam pipeline and waits for the last.

    The workers need this package, and the raw images and the data folder under the same paths.

    Raises BuildError if Beam is not installed, it does not know the `runner` ("DirectRunner",
    "FlinkRunner", "SparkRunner" …), or a worker's shard is missing from the data folder.
    """
    beam = _import_beam()
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except ValueError as error:
        raise BuildError(f"--beam_runner={runner}: {error}") from error
    with pipeline:
        # Reshuffled, or Beam would fuse listing and writing into one worker's work.
        pipeline | beam.Create(list(plan)) | beam.Reshuffle() | beam.Map(job.write_alone)
    missing = [shard for shard in plan if not shard.path(job.folder).exists()]
    if missing:
        raise BuildError(
            f"{len(missing)} of {len(plan)} shards are not in {job.folder} after the Beam "
            "pipeline: its workers must see the data folder under the same path."
        )
    return [Written.load(shard.path(job.folder)) for shard in plan]


def beam_options(flags: str) -> Any:
    """Parses flags as on a command line into Beam's PipelineOptions; BuildError without Beam."""
    _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(shlex.split(flags))


def finish(
    plan: Sequence[Shard], written: Sequence[Written], folder: Path, template_of: Any
) -> tuple[list[tfds_splits.SplitInfo], dict[str, list[tuple[Record, str]]]]:
    """Gives the files their final names and removes those without an image.

    `template_of` gives TFDS's filename template of a split_name. Returns TFDS's SplitInfos, and
    the stored images of each split in order, with their hashes. Raises BuildError for a split of
    which no image could be read.
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
            reasons = collections.Counter(reason for _, w in pairs for reason in w.reasons)
            ((reason, count),) = reasons.most_common(1)
            raise BuildError(
                f"Not one image of {split!r} could be read. Most often ({count:,}): {reason}."
            )
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


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise BuildError("--beam_runner needs Apache Beam: pip install -e '.[beam]'.") from error
    return apache_beam

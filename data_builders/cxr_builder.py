"""What all builders share: example schema, listing, parallel reading, skip report, metadata.

A dataset is one file, data_builders/<name>/<name>_dataset_builder.py, with a class `Builder` that
fills in the class attributes of `CxrBuilder` and lists its films:

    class Builder(cxr_builder.CxrBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = cxr_builder.resolution_configs()
        LABEL_NAMES = ("Pneumonia",)
        TASK = "binary"
        LICENCE = "CC BY 4.0"
        SPLIT_RULE = "the owner's"

        def records(self, manual_dir):
            yield Record(
                split="train", image_id=…, patient_id=…, film=path, labels={"Pneumonia": 1.0}
            )

Beside it stand README.md, CITATIONS.bib and TAGS.txt, which TFDS reads. A dataset that is drawn
instead of read gives `film=functools.partial(draw, seed)`, with `draw` in a module that does not
import TFDS, because the worker processes import it.

TFDS's own writer needs TensorFlow as soon as a split exceeds 1 GB (its shuffle spills through
tf.io.gfile). Here the films are shuffled before they are read, by a hash of image_id, and written
once, in order: memory stays bounded and nothing imports TensorFlow.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, file_adapters
from tensorflow_datasets.core import splits as tfds_splits

from data_builders import reading, skip_report, writing
from data_builders.records import (
    SPLITS,
    BuildError,
    Record,
    Skipped,
    check_records,
)


@dataclasses.dataclass(eq=False, kw_only=True)
class CxrConfig(tfds.core.BuilderConfig):
    """A TFDS config whose films have `resolution` pixels on the shorter side (None: their own)."""

    resolution: int | None = 256


def resolution_configs() -> list[CxrConfig]:
    """The three sizes every dataset of real films comes in; the first is the default."""
    return [
        CxrConfig(name="256", resolution=256, description="shorter side 256 pixels"),
        CxrConfig(name="512", resolution=512, description="shorter side 512 pixels"),
        CxrConfig(name="full", resolution=None, description="the films' own size"),
    ]


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """How to build, as opposed to what.

    Attributes:
      max_skipped: largest fraction of the listed films that may be skipped.
      num_workers: processes that read films; 0 reads in this one; None takes all cores.
      progress: whether a progress line is written to stderr.
      inputs: the builder's INPUTS that were given: option's name -> folder.
    """

    max_skipped: float = 0.01
    num_workers: int | None = None
    progress: bool = True
    inputs: Mapping[str, Path] = dataclasses.field(default_factory=dict)


class CxrBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of every builder; a subclass fills in the attributes and `records`."""

    LABEL_NAMES: ClassVar[tuple[str, ...]] = ()
    # "presence": 1, 0, -1 uncertain, NaN not mentioned. "certainty": 0 (absent) to 5 (consistent
    # with). "grade": whole numbers.
    LABEL_SCALE: ClassVar[str] = "presence"
    READERS: ClassVar[bool] = False  # whether a label holds one value a reader
    TASK: ClassVar[str] = "none"  # "binary", "multilabel", "multiclass" or "none"
    PARENT: ClassVar[str] = ""  # the dataset whose films and patients these are, if not its own
    # What the owner (or who counted the owner's files) says of the whole: "images", "patients",
    # "studies", "<split> images" ("train+validation images") or a label's positives -> number.
    OWNER_COUNTS: ClassVar[Mapping[str, int]] = {}
    # Folders beside manual_dir that this dataset needs or may use: option's name -> what it is.
    INPUTS: ClassVar[Mapping[str, str]] = {}
    LICENCE: ClassVar[str] = "unknown"
    HOMEPAGE: ClassVar[str | None] = None
    SPLIT_RULE: ClassVar[str] = ""
    HAS_BOXES: ClassVar[bool] = False
    HAS_REPORTS: ClassVar[bool] = False
    ENCODING: ClassVar[str] = "jpeg"  # "jpeg" (quality 95) or "png"

    settings: BuildSettings = BuildSettings()

    @abc.abstractmethod
    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        """Lists every film once, and every file or row that gives none as `Skipped`.

        Args:
          manual_dir: where the raw dataset lies; None for datasets that are drawn.
        """

    def input_dir(self, name: str, manual_dir: Path) -> Path:
        """The folder given as --`name`; manual_dir itself where it was not, since people put both
        there."""
        return self.settings.inputs.get(name, manual_dir)

    @classmethod
    def make_config(cls, resolution: str | None, options: Mapping[str, str]) -> CxrConfig:
        """The config for `--resolution` (None: the default); `options` are image_folder's.

        Raises:
          BuildError: no such config, or an option that this dataset does not have.
        """
        if options:
            given = ", ".join(f"--{name}" for name in options)
            raise BuildError(f"{cls.name} has no option {given}; they are for image_folder.")
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        if resolution is None:
            return cls.default_builder_config
        if resolution not in configs:
            raise BuildError(
                f"{cls.name} has no resolution {resolution!r}; it has {', '.join(configs)}."
            )
        return configs[resolution]

    def label_names(self) -> tuple[str, ...]:
        """The labels in order; a dataset with labels of its own (image_folder) overrides it."""
        return self.LABEL_NAMES

    def task(self) -> str:
        """What the labels are: "binary", "multilabel", or "none" where there are none."""
        return self.TASK

    def split_rule(self) -> str:
        """How films came into splits, in one sentence."""
        return self.SPLIT_RULE

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features: dict[str, Any] = {
            "image": tfds.features.Image(
                shape=(None, None, 1), dtype=np.uint8, encoding_format=self.ENCODING
            ),
            "image_id": text,
            "patient_id": text,
            "study_id": text,
            "view": text,
            "sex": text,
            "age": tfds.features.Scalar(np.float32),
            "phash": text,
        }
        if self.label_names():
            value = tfds.features.Scalar(np.float32)
            if self.READERS:
                features["readers"] = tfds.features.Sequence(text)
                value = tfds.features.Sequence(value)
            features["labels"] = tfds.features.FeaturesDict(
                {name: value for name in self.label_names()}
            )
        if self.HAS_REPORTS:
            features["report"] = text
        if self.HAS_BOXES:
            corners = {side: tfds.features.Scalar(np.float32) for side in ("y0", "x0", "y1", "x1")}
            features["boxes"] = tfds.features.Sequence({"label": text, **corners})
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(
                label_names=list(self.label_names()),
                label_scale=self.LABEL_SCALE,
                task=self.task(),
                parent=self.PARENT,
                licence=self.LICENCE,
                resolution=self.builder_config.resolution,
                split_rule=self.split_rule(),
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        raise NotImplementedError("Films are written by _generate_splits.")

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("Films are written by _generate_splits.")

    def _generate_splits(
        self, dl_manager: tfds.download.DownloadManager, download_config: Any
    ) -> Sequence[tfds_splits.SplitInfo]:
        manual_dir = Path(dl_manager.manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        listed = list(self.records(manual_dir))
        skipped = [entry for entry in listed if isinstance(entry, Skipped)]
        records = [entry for entry in listed if isinstance(entry, Record)]
        check_records(records, self.label_names())
        if not records:
            raise BuildError(f"{self.name}: no film was found in {manual_dir}.")
        progress = reading.Progress(self.name, len(records), self.settings.progress)
        infos, counts = [], {}
        for split in SPLITS:
            of_split = sorted((r for r in records if r.split == split), key=_shuffle_key)
            if of_split:
                films = self._read(of_split, manual_dir, skipped, progress)
                info, tally = self._write_split(split, films)
                infos.append(info)
                counts[split] = tally.counts()
        progress.close()
        lost = f"{self.name}-{self.builder_config.name}-skipped.csv"
        skip_report.check(
            self.name,
            skipped,
            len(listed),
            self.settings.max_skipped,
            Path(self.data_dir_root) / lost,
        )
        skip_report.write(Path(self.data_path) / "skipped.csv", skipped)
        for info in infos:
            if info.num_examples == 0:
                raise BuildError(f"{self.name}: not one film of {info.name!r} could be read.")
        self.info.metadata.update(counts=counts, skipped=len(skipped))
        return infos

    def _log_download_bytes(self) -> None:
        """TFDS would announce a download; nothing is downloaded."""

    def _log_download_done(self) -> None:
        """The build command says what it wrote."""

    def _read(
        self,
        records: Sequence[Record],
        manual_dir: Path | None,
        skipped: list[Skipped],
        progress: reading.Progress,
    ) -> Iterator[tuple[Record, reading.Film]]:
        """Reads films in order; those that cannot be read go to `skipped` instead."""
        prepare_film = functools.partial(
            reading.prepare_film,
            resolution=self.builder_config.resolution,
            encoding=self.ENCODING,
        )
        films = ((record, record.film) for record in records)
        for record, film in reading.parallel_map(prepare_film, films, self.settings.num_workers):
            progress.step()
            if isinstance(film, reading.Film):
                yield record, film
            else:
                skipped.append(Skipped(relative_name(record.film, manual_dir), film.reason))

    def _write_split(
        self, split: str, films: Iterator[tuple[Record, reading.Film]]
    ) -> tuple[tfds_splits.SplitInfo, writing.Tally]:
        """Writes the shards of one split; returns TFDS's account of it and ours."""
        serializer = example_serializer.ExampleSerializer(self.info.features.get_serialized_info())
        adapter = file_adapters.ADAPTER_FOR_FORMAT[self.info.file_format]
        template = self._get_filename_template(split_name=split)
        tally = writing.Tally(self.label_names())

        def examples() -> Iterator[tuple[str, bytes]]:
            for record, film in films:
                example = self.info.features.encode_example(self._example(record, film))
                tally.add(record)
                yield record.image_id, serializer.serialize_example(example)

        written = writing.write_shards(examples(), adapter, Path(self.data_path), split)
        for index, path in enumerate(written.paths):
            num_shards = len(written.paths)
            path.rename(template.sharded_filepath(shard_index=index, num_shards=num_shards))
        info = tfds_splits.SplitInfo(
            name=split,
            shard_lengths=written.lengths,
            num_bytes=written.num_bytes,
            filename_template=template,
        )
        return info, tally

    def _example(self, record: Record, film: reading.Film) -> dict[str, Any]:
        example: dict[str, Any] = {
            "image": film.image,
            "image_id": record.image_id,
            "patient_id": record.patient_id,
            "study_id": record.study_id,
            "view": record.view,
            "sex": record.sex,
            "age": record.age,
            "phash": film.phash,
        }
        if record.labels:
            example["labels"] = dict(record.labels)
        if self.READERS:
            example["readers"] = list(record.readers)
        if self.HAS_REPORTS:
            example["report"] = record.report
        if self.HAS_BOXES:
            example["boxes"] = [dataclasses.asdict(box) for box in record.boxes]
        return example


def relative_name(film: Any, manual_dir: Path | None) -> str:
    """The film's name in skipped.csv: its path below the manual folder where it has one."""
    if isinstance(film, Path) and manual_dir is not None and film.is_relative_to(manual_dir):
        return film.relative_to(manual_dir).as_posix()
    return str(film)


def _shuffle_key(record: Record) -> bytes:
    return hashlib.sha256(record.image_id.encode()).digest()

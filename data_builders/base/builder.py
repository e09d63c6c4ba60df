"""The base class of all builders: lists images, reads them in parallel, writes the dataset.

A dataset is one file, data_builders/<name>/<name>_dataset_builder.py, with a class `Builder` that
fills in the class attributes of `CxrBuilder` and lists its images:

    class Builder(builder.CxrBuilder):
        LABEL_NAMES = ("Pneumonia",)
        LICENCE = "CC BY 4.0"
        SPLIT_RULE = "the owner's"

        def records(self, manual_dir):
            yield Record(
                split="train", image_id=…, patient_id=…, image=path, labels={"Pneumonia": 1.0}
            )

Beside it are README.md, CITATIONS.bib and TAGS.txt, which TFDS reads. A drawn dataset's images are
functions in a module without TFDS, because the worker processes import it.

TFDS's own writer needs TensorFlow for a split over 1 GB. Here the images are shuffled before they
are read and written once, in order (base/write.py): memory is bounded, nothing imports TensorFlow.
"""

import abc
import dataclasses
import gc
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core import splits as tfds_splits

from cxr_jax.data import dataset_info, seen_images, tasks
from cxr_jax.io import dicom
from data_builders.base import (
    chexmask,
    contact_sheet,
    counts,
    folders,
    parallel,
    records,
    splits,
    write,
)
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.base.settings import BuildSettings, CxrConfig, OwnInfo, resolution_configs

# Below a build's folder: what `records` unpacks there goes when the build ends.
SCRATCH = "scratch"


class Listing(NamedTuple):
    """The raw dataset's list: images, and files or rows that give none."""

    records: list[Record]
    skipped: list[Skipped]


class CxrBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of every builder; a subclass fills in the attributes and `records`.

    A change of what a dataset holds needs a new VERSION.
    """

    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[Sequence[CxrConfig]] = resolution_configs()
    LABEL_NAMES: ClassVar[tuple[str, ...]] = ()
    # "presence": 1, 0, -1 uncertain, NaN not mentioned. "certainty": 0 (absent) to 5 (consistent
    # with). "grade": whole numbers.
    LABEL_SCALE: ClassVar[str] = "presence"
    READERS: ClassVar[bool] = False  # whether a label holds one value a reader
    # What is scored, by name; "default" is what a transfer does unasked, and is every label unless
    # it is given here.
    TASKS: ClassVar[Mapping[str, tasks.Task]] = {}
    PATIENT: ClassVar[str] = "person"  # what the owner's patient ids number
    PATIENT_NOTE: ClassVar[str] = ""  # what to know, and do, where they number no persons
    PARENT: ClassVar[str] = ""  # the dataset whose images and patients these are, if not its own
    # What the owner (or who counted the owner's files) says of the whole: "images", "patients",
    # "studies", the same of splits ("train+validation images") or a label's positives -> number.
    OWNER_COUNTS: ClassVar[Mapping[str, int]] = {}
    # Folders beside manual_dir that this dataset needs or may use: option's name -> what it is.
    INPUTS: ClassVar[Mapping[str, str]] = {}
    OPTIONS: ClassVar[Mapping[str, str]] = {}  # what make_config takes: option's name -> what it is
    LICENCE: ClassVar[str] = "unknown"
    HOMEPAGE: ClassVar[str | None] = None
    SPLIT_RULE: ClassVar[str] = ""
    HAS_BOXES: ClassVar[bool] = False
    HAS_REPORTS: ClassVar[bool] = False
    MASK_NAMES: ClassVar[tuple[str, ...]] = ()  # what images may have masks of
    CHEXMASK: ClassVar[str] = ""  # the column of images in CheXmask's table of this dataset
    ENCODING: ClassVar[str] = "jpeg"  # "jpeg" (quality 95) or "png"

    settings: BuildSettings = BuildSettings()

    def __init__(self, **settings: Any):
        self.name = getattr(settings.get("config"), "dataset", "") or type(self).name
        super().__init__(**settings)

    @abc.abstractmethod
    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        """Lists every image once, and every file or row that gives none as `Skipped`.

        `manual_dir` is where the raw dataset lies; None for datasets that are drawn.
        """

    def root(self, manual_dir: Path, *names: str) -> Path:
        """Returns the folder with one of `names`, as folders.find_root."""
        return folders.find_root(manual_dir, names, self.MANUAL_DOWNLOAD_INSTRUCTIONS)

    def nothing(self, manual_dir: Path, what: str) -> BuildError:
        """Returns the error that says what `manual_dir` does not hold, and how to get it."""
        return BuildError(f"{manual_dir} holds {what}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")

    def input_dir(self, name: str, manual_dir: Path) -> Path:
        """Returns the folder given as --`name`, or manual_dir, since people put both there."""
        return self.settings.inputs.get(name, manual_dir)

    def read_tags(self, files: Mapping[str, Path], wanted: Iterable[str]) -> dict[str, dicom.Tags]:
        """Reads the DICOM headers of the `wanted` files; NO_TAGS where there is none to read."""
        wanted = list(wanted)
        present = [(name, files[name]) for name in wanted if name in files]
        found = dict(parallel.parallel_map(dicom.read_tags, present, self.settings.num_workers))
        return {name: found.get(name) or dicom.NO_TAGS for name in wanted}

    @classmethod
    def make_config(cls, resolution: str | None, options: Mapping[str, str]) -> CxrConfig:
        """Returns the config for `--resolution` (None: the default) and the dataset's own OPTIONS.

        Raises BuildError if there is no such config.
        """
        configs = {config.name: config for config in cls.BUILDER_CONFIGS}
        config = cls.default_builder_config if resolution is None else configs.get(resolution)
        if not config:
            raise BuildError(
                f"{cls.name} has no resolution {resolution!r}; it has {', '.join(configs)}."
            )
        if "chexmask_csv" in options:
            table = str(Path(options["chexmask_csv"]).absolute())
            # TFDS wants another name for a config that is not of the class.
            name = f"{config.name}_chexmask"
            config = dataclasses.replace(config, name=name, chexmask_csv=table)
        return config

    def mask_names(self) -> tuple[str, ...]:
        """Returns what images may have masks of: MASK_NAMES, or what CheXmask has."""
        return tuple(chexmask.ORGANS) if self.builder_config.chexmask_csv else self.MASK_NAMES

    def owner(self) -> str:
        """Returns the dataset whose patients and images these are: ids are hashed with it."""
        return self.PARENT or type(self).name

    def label_names(self) -> tuple[str, ...]:
        """Returns the labels in order; image_folder, whose labels a person names, overrides it."""
        return self.LABEL_NAMES

    def task(self) -> str:
        """Returns what the labels are: "binary", "multilabel", "multiclass" or "none"."""
        if self.LABEL_SCALE == "grade":
            return "multiclass"
        return {0: "none", 1: "binary"}.get(len(self.label_names()), "multilabel")

    def split_rule(self) -> str:
        """Says in a sentence how images are split."""
        return self.SPLIT_RULE

    def _info(self) -> tfds.core.DatasetInfo:
        has = self.READERS, self.HAS_BOXES, bool(self.mask_names()), self.HAS_REPORTS
        features = dataset_info.make_features(self.label_names(), *has, self.ENCODING)
        masks = {"mask_names": list(self.mask_names())} if self.mask_names() else {}
        metadata = tfds.core.MetadataDict(
            label_names=list(self.label_names()),
            label_scale=self.LABEL_SCALE,
            task=self.task(),
            tasks=tasks.to_json(self.TASKS),
            builder=type(self).name,
            parent=self.PARENT,
            patient=self.PATIENT,
            licence=self.LICENCE,
            resolution=self.builder_config.resolution,
            split_rule=self.split_rule(),
            **masks,
        )
        beside = self.get_metadata()  # the README and the citation in the dataset's folder
        return OwnInfo(
            builder=self,
            description=beside.description or None,
            citation=beside.citation or None,
            homepage=self.HOMEPAGE,
            features=features,
            metadata=metadata,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        raise NotImplementedError("Images are written by _generate_splits.")

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("Images are written by _generate_splits.")

    def list_images(self, manual_dir: Path | None) -> Listing:
        """Reads the owner's tables and checks what they say; opens no image.

        Raises BuildError: they contradict themselves, name images outside of the folders that were
        given, or list nothing.
        """
        # Hundreds of thousands of records that stay: the collector would go through them in vain.
        gc.disable()
        try:
            listed = list(self.records(manual_dir))
        finally:
            gc.enable()
        listing = Listing(
            records=[entry for entry in listed if isinstance(entry, Record)],
            skipped=[entry for entry in listed if isinstance(entry, Skipped)],
        )
        if self.settings.splits_csv:
            kept, skipped = splits.by_list(self.settings.splits_csv, listing.records, manual_dir)
            listing = Listing(kept, listing.skipped + skipped)
        records.check_records(listing.records, self.label_names())
        if not listing.records:
            raise BuildError(f"{self.name}: no image was found in {manual_dir}.")
        if path := self.builder_config.chexmask_csv:
            masked = chexmask.add_masks(listing.records, Path(path), self.CHEXMASK)
            listing = listing._replace(records=masked)
        if manual_dir is None:
            return listing
        roots = (manual_dir, Path(self.data_path), *self.settings.inputs.values())
        within, linked = folders.separate(listing.records, roots, self.settings.follow_links)
        names = (records.relative_name(record.image, manual_dir) for record in linked)
        return Listing(within, listing.skipped + [Skipped(n, folders.LEADS_OUT) for n in names])

    def owner_counts(self, records: Sequence[Record]) -> Mapping[str, int]:
        """Returns OWNER_COUNTS, or those of the part or copy of the dataset that is there."""
        return self.OWNER_COUNTS

    def summary(self, listed: Sequence[Record], kept: Sequence[Record]) -> dict[str, Any]:
        """Returns what is said of the `listed` images, of which `kept` could be read.

        That is their counts by split, the owner's counts beside those of the list, how they are
        split, and what to know of patients and labels.
        """
        names, scale, given = self.label_names(), self.LABEL_SCALE, self.settings.splits_csv
        task = tasks.find_task(self.name, names, self.TASKS) if names else None
        return {
            "split_rule": f"by the list {splits.describe_list(given)}"
            if given
            else self.split_rule(),
            "counts": counts.by_split(kept, names, scale),
            "owner_counts": counts.against_owner(self.owner_counts(listed), listed, names, scale),
            "patient_note": counts.patient_note(kept, self.PATIENT_NOTE),
            "label_note": counts.label_note(kept, task, scale) if task else "",
        }

    def _generate_splits(
        self, dl_manager: tfds.download.DownloadManager, download_config: Any
    ) -> Sequence[tfds_splits.SplitInfo]:
        folder = Path(self.data_path)
        manual_dir = Path(dl_manager.manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        listing = self.list_images(manual_dir)
        absent = records.absent(listing.records, manual_dir)
        # Before hours of reading the others.
        self._check_losses([*listing.skipped, *absent], len(listing.records) + len(listing.skipped))
        plan = write.plan(listing.records, self.builder_config.resolution)
        job = write.Job(
            folder,
            write.Serializer(self.info.features),
            file_adapters.ADAPTER_FOR_FORMAT[self.info.file_format],
            self.builder_config.resolution,
            self.ENCODING,
        )
        if download_config.beam_runner:
            runner, options = download_config.beam_runner, download_config.beam_options
            written = write.write_with_beam(plan, job, runner, options)
        else:
            shown = self.settings.progress
            with parallel.progress(self.name, len(listing.records), shown) as progress:
                written = write.write_all(plan, job, self.settings.num_workers, progress)
        skipped = listing.skipped + [
            Skipped(records.name_of(record, manual_dir), reason)
            for shard, result in zip(plan, written)
            for record, *reasons in zip(shard.records, result.reasons, result.refused)
            for reason in filter(None, reasons)
        ]
        refused = sum(bool(reason) for result in written for reason in result.refused)
        self._check_losses(skipped, len(listing.records) + len(listing.skipped))
        records.write_skipped(folder / "skipped.csv", skipped)
        template = self._get_filename_template
        infos, stored = write.finish(plan, written, folder, template)
        seen_images.write(
            folder / seen_images.FILE,
            seen_images.make(
                f"{self.name}/{self.builder_config.name}",
                self.owner(),
                {
                    split: [(one.patient_id * one.patient_known, phash) for one, phash in images]
                    for split, images in stored.items()
                },
            ),
        )
        kept = [record for images in stored.values() for record, _ in images]
        contact_sheet.write(
            folder / records.CONTACT_SHEET,
            f"{self.name}/{self.builder_config.name}: some of {len(kept):,} images",
            contact_sheet.choose(kept, self.LABEL_SCALE),
            self.LABEL_SCALE,
            lambda record: job.prepare(record.image),
        )
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        if given := self.settings.splits_csv:
            self.info.metadata["splits_csv"] = splits.describe_list(given)
        self.info.metadata.update(self.summary(listing.records, kept))
        self.info.metadata["skipped"] = len(skipped) - refused
        if refused:
            self.info.metadata["masks_refused"] = refused
        return infos

    def _check_losses(self, skipped: Sequence[Skipped], num_listed: int) -> None:
        name = f"{self.name}-{self.builder_config.name}-skipped.csv"
        path = Path(self.data_dir_root) / name
        records.check_skipped(self.name, skipped, num_listed, self.settings.max_skipped, path)

    def _log_download_bytes(self) -> None:
        """Says nothing: TFDS would announce a download, and there is none."""

    def _log_download_done(self) -> None:
        """Says nothing: the build command says what it wrote."""

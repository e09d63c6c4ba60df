"""A person's own folder tree of PNG, JPEG or DICOM images, with or without a CSV of labels."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cxr_jax.data import pseudonyms
from cxr_jax.data.dataset_info import dataset_names
from cxr_jax.io import dicom, image_io
from cxr_jax.io.text import composed
from data_builders.base import builder, folders, masks, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.image_folder.label_table import LabelRow, LabelTable

VALIDATION_SHARE = 0.1


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageFolderConfig(builder.CxrConfig):
    """The place of a folder's labels, as the Builder's OPTIONS say; "" or None: not given."""

    labels_csv: str = ""
    image_column: str = "image"
    patient_column: str | None = None
    label_columns: str = ""
    recode: str = ""
    report_column: str = ""
    masks_dir: str = ""


class Builder(builder.CxrBuilder):
    """Images of a folder; without labels all are for pretraining, with labels split by patient."""

    BUILDER_CONFIGS: ClassVar = []  # a config is made for each folder
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "manual_dir is your folder of PNG, JPEG or DICOM images, with any folders inside."
    )
    PATIENT: ClassVar = "person, if your table or headers say so"
    PATIENT_NOTE: ClassVar = "Name a column of patients (patient_id, or --patient_column)."
    SPLIT_RULE: ClassVar = (
        "your table's split column; without one by a fixed hash of the patient, 70/10/20. Without "
        "labels all images are train."
    )
    LICENCE: ClassVar = "the owner's"
    OPTIONS: ClassVar = {
        "name": "the name of the dataset that is built (default: image_folder)",
        "labels_csv": "CSV with one row per image; its columns are labels",
        "label_columns": "the columns that are labels, between commas (default: all others)",
        "recode": "what cells stand for: 'Grade:0=0,1=0,2=1,3=1;sex:2=F,1=M'",
        "image_column": "column with the image's path (default: image)",
        "patient_column": "column with the patient (default: patient_id)",
        "report_column": "column with the image's report (default: none)",
        "masks_dir": "folder with a folder for each mask, of files called as the images are: "
        "Lungs/2019/a1.png",
    }

    @classmethod
    def make_config(cls, resolution: str | None, options: Mapping[str, str]) -> ImageFolderConfig:
        sizes = {config.name: config.resolution for config in builder.resolution_configs()}
        resolution = resolution or "256"
        if resolution not in sizes:
            raise BuildError(f"No resolution {resolution!r}; there are {', '.join(sizes)}.")
        settings = dict(options)
        name = settings.pop("name", "")
        if name and not re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,98}", name):
            raise BuildError(
                f"--name={name!r}: a dataset's name begins with a letter and has letters, digits "
                "and '_' only."
            )
        if name.casefold() in dataset_names():
            raise BuildError(f"--name={name}: there is a dataset of that name. Choose another one.")
        columns = settings.keys() - {"labels_csv", "masks_dir"}
        if not settings.get("labels_csv") and columns:
            raise BuildError(f"--{min(columns)} names a column of --labels_csv; give both.")
        return ImageFolderConfig(
            name=resolution, resolution=sizes[resolution], dataset=name, **settings
        )

    @functools.cached_property
    def table(self) -> LabelTable | None:
        """The CSV of labels, if there is one."""
        config = self.builder_config
        if not config.labels_csv:
            return None
        columns = config.image_column, config.patient_column, config.label_columns
        return LabelTable(Path(config.labels_csv), *columns, config.recode, config.report_column)

    @property
    def HAS_REPORTS(self) -> bool:
        """Whether a column of the CSV holds them."""
        return bool(self.builder_config.report_column)

    @functools.cached_property
    def masks(self) -> dict[str, dict[str, Path]]:
        """The files of --masks_dir: mask's name -> image's path without suffix -> file."""
        config = self.builder_config
        return mask_files(Path(config.masks_dir)) if config.masks_dir else {}

    @property
    def MASK_NAMES(self) -> tuple[str, ...]:
        """The names of the folders in --masks_dir."""
        return tuple(self.masks)

    def label_names(self) -> tuple[str, ...]:
        return self.table.label_names if self.table else ()

    def split_rule(self) -> str:
        if self.table and self.table.has_splits:
            return (
                "The CSV's split column; if it names no validation image, 10 % of the train "
                "patients, by a fixed hash of the patient, are validation."
            )
        if self.label_names() or self.MASK_NAMES:
            return "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
        return "All images are train."

    def summary(self, listed: Sequence[Record], kept: Sequence[Record]) -> dict[str, Any]:
        said = super().summary(listed, kept)
        if self.table and not self.label_names():
            said["label_note"] = f"no column of {self.table.path.name} is a label"
        return said

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        found = {}
        leave_out = self._built_folders(manual_dir)
        if self.builder_config.masks_dir:
            leave_out.append(Path(self.builder_config.masks_dir))
        for path in folders.files_below(manual_dir, leave_out):
            name = composed(path.relative_to(manual_dir).as_posix())
            if is_image(path):
                if name in found:
                    raise BuildError(f"Two images are called {name}, in two forms of Unicode.")
                found[name] = path
            elif path.suffix.lower() in folders.OTHER_PICTURES:
                yield Skipped(name, f"{path.suffix} is not PNG, JPEG or DICOM")
        if not found:
            beside = " outside of --masks_dir" if self.builder_config.masks_dir else ""
            raise BuildError(f"{manual_dir} holds no PNG, JPEG or DICOM file{beside}.")
        # Before the images are read, since patients decide the splits.
        dicoms = (name for name, path in found.items() if dicom.is_dicom(path))
        tags = self.read_tags(found, dicoms)
        plain = {name: LabelRow(where=name, image=name) for name in found}
        rows = self.table.match(found) if self.table else plain
        _check_ids(name for name in rows if name in found)
        if self.table:
            self._check_patients({name: row for name, row in rows.items() if name in found}, tags)
        yield from self._masks_left(found)
        carve = all(row.split in ("train", "test") for row in rows.values())
        for name, row in rows.items():
            if name not in found:
                # Not by its name there: a field moved into this column may be anything.
                reason = f"its {self.table.image_column} is not a file of the folder"
                yield Skipped(row.where, reason)
                continue
            record = make_record(row, found[name], tags.get(name, dicom.NO_TAGS))
            split = self._split(record.patient_id, row, carve)
            own = {
                mask: files[record.image_id]
                for mask, files in self.masks.items()
                if record.image_id in files
            }
            read = functools.partial(masks.read_own, own) if own else None
            yield self._sealed(dataclasses.replace(record, split=split, masks=read))
        for name in sorted(found.keys() - rows.keys()):
            # A few labelled images among many are what such a table is for.
            yield Skipped(name, f"no row in {self.table.path.name}", expected=True)

    def _check_patients(self, rows: Mapping[str, LabelRow], tags: Mapping[str, dicom.Tags]) -> None:
        """Raises BuildError if some patients are named by the table, and others by headers alone.

        The two may name one person differently, who would then be in two splits.
        """
        left = [
            row.where
            for name, row in rows.items()
            if not row.patient and tags.get(name, dicom.NO_TAGS).patient_id
        ]
        if left and any(row.patient for row in rows.values()):
            raise BuildError(
                f"{self.table.path}: column {self.table.patient_column!r} is blank in "
                f"{len(left):,} rows (the first: {left[0]}) whose DICOM headers name a patient, "
                "perhaps by another id than other rows do: one person could be in train and in "
                "test. Fill these cells in, take these rows out, or empty the whole column: then "
                "the headers' ids count for all."
            )

    def _masks_left(self, names: Iterable[str]) -> Iterator[Skipped]:
        """Yields the masks of no image; BuildError where all are, or a mask has none."""
        images = set(map(image_io.without_suffix, names))
        root = Path(self.builder_config.masks_dir)
        for name, files in self.masks.items():
            if not images & files.keys():
                raise BuildError(
                    f"{root / name}: none of its {len(files):,} files is called as an image. The "
                    f"mask of 2019/a1.dcm is {name}/2019/a1.png."
                )
            yield from folders.not_listed(files, images, root, "a mask of no image")

    def _built_folders(self, manual_dir: Path) -> list[Path]:
        """Returns where built datasets are, whose contact sheets are not images of the folder.

        That is the data folder, or the datasets in it where it is `manual_dir` itself.
        """
        data = Path(self.data_dir_root)
        if data.resolve() != manual_dir.resolve():
            return [data]
        finished = [info.parent for info in data.glob("*/*/*/dataset_info.json")]
        return [*finished, *data.glob("*/*/incomplete.*")]

    @functools.cached_property
    def _key(self) -> bytes:
        return pseudonyms.read(Path(self.data_dir_root))

    def _sealed(self, record: Record) -> Record:
        """Returns the record with patient and study hashed by the project's secret.

        Splits are made before, so that they are the same in every project.
        """
        for kind in ("patient", "study"):
            if own := getattr(record, f"{kind}_id"):
                (sealed,) = pseudonyms.hashed(self._key, kind, self.owner(), [own])
                record = dataclasses.replace(record, **{f"{kind}_id": sealed})
        return record

    def _split(self, patient_id: str, row: LabelRow, carve: bool) -> str:
        if row.split:
            share = VALIDATION_SHARE if carve else 0.0
            return splits.carve_validation(patient_id, share, row.split)
        scored = self.label_names() or self.MASK_NAMES
        return splits.by_patient(patient_id) if scored else "train"


def is_image(path: Path) -> bool:
    """Returns whether a file is an image we read: by its suffix, or by DICOM's magic."""
    suffix = path.suffix.lower()
    if suffix in image_io.SUFFIXES:
        return True
    # A DICOMDIR is a table of contents with the magic of an image.
    return suffix not in folders.OTHER_PICTURES and path.name != "DICOMDIR" and dicom.is_dicom(path)


def mask_files(root: Path) -> dict[str, dict[str, Path]]:
    """Lists --masks_dir: folder's name -> path below it, without suffix -> PNG or GIF file.

    Raises BuildError where there is no such folder, or no folder with such files in it.
    """
    found = {}
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and not folders.is_dropping(folder.name):
                paths = folders.files_below(folder)
                masks_there = (path for path in paths if path.suffix.lower() in (".png", ".gif"))
                if files := folders.unique(masks_there, functools.partial(_below, folder)):
                    found[composed(folder.name)] = files
    if not found:
        raise BuildError(
            f"--masks_dir: {root.absolute()} holds no folder of PNG or GIF files. A folder for "
            "each mask, called as the mask is, holds files called as the images: Lungs/2019/a1.png."
        )
    return found


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _check_ids(names: Iterable[str]) -> None:
    """Raises BuildError for images whose paths differ in their suffixes alone."""
    taken: dict[str, str] = {}
    for name in names:
        twin = taken.setdefault(image_io.without_suffix(name), name)
        if twin is not name:
            raise BuildError(
                "Two images would have one id, which is the path without its extension: "
                f"{twin} and {name}. If they show the same, remove one; else rename one, in the "
                "CSV of labels too."
            )


def make_record(row: LabelRow, path: Path, tags: dicom.Tags) -> Record:
    """Joins what the CSV says with what the DICOM header says; the CSV goes first.

    Patient and study ids are hashed; an image of an unknown patient is a patient of its own.
    """
    image_id = image_io.without_suffix(row.image)
    patient_id = dicom.hashed(row.patient) if row.patient else tags.patient_id
    return Record(
        split="train",
        image_id=image_id,
        patient_id=patient_id or dicom.hashed(image_id),
        patient_known=bool(patient_id),
        image=path,
        labels=row.labels,
        study_id=dicom.hashed(row.study, "s") if row.study else tags.study_id,
        projection=dicom.standard_projection(row.projection or tags.projection),
        sex=row.sex or tags.sex,
        age=row.age if row.age == row.age else tags.age,
        row=row.where,
        report=row.report,
    )

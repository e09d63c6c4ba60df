"""CheXpert (Irvin et al. 2019): 223,648 images, 14 labels from reports, valid read by experts."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import builder, csv_table, folders
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.chexpert import labels

# The owner's lists of images: table -> its part of the tree, our split.
PARTS = {"train.csv": ("train", "train"), "valid.csv": ("valid", "validation")}
# CheXlocalize's labels of the test set; the second file has a row a study.
TEST_TABLES = ("test_labels.csv", "groundtruth.csv")
# CheXlocalize packs a second copy of valid.
SECOND_COPY = "val"
SEXES = {"Female": "F", "Male": "M"}

_IMAGE = re.compile(
    r"(?:.*/)?(?P<part>[^/]+)/(?P<image>(?P<study>(?P<patient>patient\d+)/study\d+)"
    r"/view\d+_(?P<view>frontal|lateral))\.(?i:jpe?g)"
)
_STUDY = re.compile(r"(?:.*/)?test/(patient\d+/study\d+)")


class Builder(builder.CxrBuilder):
    """The full or the small release, in one tree or in the folders of Stanford's zips."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Register at https://stanfordaimi.azurewebsites.net, download CheXpert (v1.0 or "
        "v1.0-small) and unpack it, so that train.csv, valid.csv and patient…/study…/view….jpg lie "
        "anywhere below manual_dir. CheXlocalize's CheXpert/test with test_labels.csv (or "
        "groundtruth.csv) beside it becomes the test split."
    )
    HOMEPAGE: ClassVar = "https://stanfordmlgroup.github.io/competitions/chexpert/"
    LABEL_NAMES: ClassVar = labels.CHEXPERT_LABELS
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {
        "default": Task(as_stored(labels.COMPETITION), **labels.FROM_REPORTS),
        "all": Task(as_stored(labels.CHEXPERT_LABELS), **labels.FROM_REPORTS),
    }
    LICENCE: ClassVar = "Stanford University research use agreement"
    SPLIT_RULE: ClassVar = (
        "The owner's train; the owner's valid (read by radiologists) is validation; the owner's "
        "test images are test where manual_dir holds them, otherwise there is no test split."
    )
    OWNER_COUNTS: ClassVar = {
        "train images": 223_414,
        "train patients": 64_540,
        "validation images": 234,
    }

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        images, lists = scan(manual_dir)
        if "train.csv" not in lists:
            raise BuildError(
                f"{manual_dir} holds no train.csv. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        listed = set()
        for entry in read_all(lists, images):
            if isinstance(entry, Record):
                listed.add(entry.image_id)
            yield entry
        for image_id in sorted(images.keys() - listed):
            name = images[image_id].relative_to(manual_dir).as_posix()
            yield Skipped(name, f"no row in {' or '.join(sorted(lists))}")


def scan(manual_dir: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images by image id ("patient00001/study1/view1_frontal") and the tables by name.

    The zips unpack to folders of their own with the patients directly inside, so that only the
    tail of a path tells which image it is.

    Raises:
      BuildError: a table lies in two folders, or images that differ have one image id.
    """
    images: list[Path] = []
    lists: dict[str, Path] = {}
    for path in folders.files_below(manual_dir):
        match = _IMAGE.fullmatch(path.as_posix())
        if match is not None:
            if match["part"] != SECOND_COPY:
                images.append(path)
            continue
        name = path.name.removesuffix(".gz")
        if name in PARTS or name in TEST_TABLES:
            first = lists.setdefault(name, path)
            if first.parent != path.parent:
                raise BuildError(
                    f"{first} and {path}: two releases? Let --manual_dir be the folder of one."
                )
    return folders.unique(images, image_id_of), lists


def image_id_of(image: Path) -> str:
    """The tail of an image's path, without the suffix."""
    return "/".join((*image.parts[-3:-1], image.stem))


def read_all(lists: Mapping[str, Path], images: Mapping[str, Path]) -> Iterator[Record | Skipped]:
    """All rows of all tables."""
    for name, (part, split) in PARTS.items():
        if name in lists:
            yield from read_part(csv_table.Table(lists[name]), part, split, images)
    for name in TEST_TABLES:
        if name in lists:
            table = csv_table.Table(lists[name])
            if "Path" in table.columns and "Sex" in table.columns:
                yield from read_part(table, "test", "test", images)
            else:
                yield from read_test(table, images)
            return


def read_part(
    table: csv_table.Table, part: str, split: str, images: Mapping[str, Path]
) -> Iterator[Record]:
    """One record a row of the owner's train.csv or valid.csv.

    Raises:
      BuildError: a path of another part, or one that its row's Frontal/Lateral contradicts.
    """
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
    at = [table.index(column) for column in columns]
    cells = labels.LabelCells(table)
    for row in table.rows((*columns, *labels.CHEXPERT_LABELS)):
        name, sex, age, direction, projection = (row.fields[i] for i in at)
        match = _match(name, part, row.where)
        if direction.lower() != match["view"]:
            raise BuildError(
                f"{row.where}: Frontal/Lateral does not fit Path. The columns have been moved "
                "against each other."
            )
        yield Record(
            split=split,
            image_id=match["image"],
            patient_id=match["patient"],
            image=_image(images, match["image"], table.path.parent / part),
            labels=cells.read(row),
            study_id=match["study"],
            projection=image_view(direction, projection),
            sex=SEXES.get(sex, ""),
            age=parse_age(age, row.where),
            row=row.where,
        )


def read_test(table: csv_table.Table, images: Mapping[str, Path]) -> Iterator[Record | Skipped]:
    """The test images of a table whose rows are studies (`Study`) or images (`Path`).

    Raises:
      BuildError: a cell that names neither.
    """
    key = "Study" if "Study" in table.columns else "Path"
    at = table.index(key)
    cells = labels.LabelCells(table)
    of_study = collections.defaultdict(list)
    for image_id in sorted(images):
        of_study[image_id.rpartition("/")[0]].append(image_id)
    for row in table.rows((key, *labels.CHEXPERT_LABELS)):
        name = row.fields[at]
        study = _STUDY.fullmatch(name)
        image_ids = of_study[study[1]] if study else [_match(name, "test", row.where)["image"]]
        if not image_ids:
            yield Skipped(row.where, "a study without an image")
        for image_id in image_ids:
            study_id = image_id.rpartition("/")[0]
            yield Record(
                split="test",
                image_id=image_id,
                patient_id=image_id.partition("/")[0],
                image=_image(images, image_id, table.path.parent / "test"),
                labels=cells.read(row),
                study_id=study_id,
                projection=dicom.standard_projection(image_id.rpartition("_")[2]),
                row=row.where,
            )


def _match(name: str, part: str, where: str) -> re.Match[str]:
    match = _IMAGE.fullmatch(name)
    if match is None or match["part"] != part:
        raise BuildError(
            f"{where}: its path is no image's of {part}, like …/{part}/patient…/study…/view…_frontal.jpg."
        )
    return match


def _image(images: Mapping[str, Path], image_id: str, folder: Path) -> Path:
    return images.get(image_id) or folder / f"{image_id}.jpg"


def image_view(direction: str, projection: str) -> str:
    """The view of an image that is "Frontal" or "Lateral".

    17 frontal images have LL or RL, which elsewhere mean lateral, where AP or PA should stand.
    """
    if direction.lower() == "frontal" and projection in ("AP", "PA"):
        return projection
    return dicom.standard_projection(direction)


def parse_age(age: str, where: str) -> float:
    """Years; NaN where blank, above 120 or 0 (three rows of a dataset of adults).

    Raises:
      BuildError: not a number.
    """
    years = csv_table.number(age or "nan")
    if years is None:
        raise BuildError(f"{where}: Age is not a number.")
    return years if 0 < years <= dicom.OLDEST else float("nan")

"""CheXpert (Irvin et al. 2019): 223,648 images, 14 labels from reports, valid read by experts."""

import collections
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import FRONTAL, Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import builder, chexmask, csv_table, folders
from data_builders.base.records import BuildError, Record, Skipped

# Shared with MIMIC-CXR and BRAX.
CHEXPERT_LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
# The five labels of the CheXpert competition.
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# Reports that were read for findings say what they found: a blank is a finding that is absent.
FROM_REPORTS = {"missing_as": "zeros", "projections": FRONTAL}
_VALUES = {"": float("nan"), "1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0}

# The owner's lists of images: table -> its part of the tree, our split.
PARTS = {"train.csv": ("train", "train"), "valid.csv": ("valid", "validation")}
# CheXlocalize's labels of the test set; the second file has a row a study.
TEST_TABLES = ("test_labels.csv", "groundtruth.csv")
# CheXlocalize packs a second copy of valid.
SECOND_COPY = "val"

_IMAGE = re.compile(
    r"(?:.*/)?(?P<part>[^/]+)/(?P<image>(?P<study>(?P<patient>patient\d+)/study\d+)"
    r"/view\d+_(?P<direction>frontal|lateral))\.(?i:jpe?g)"
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
    LABEL_NAMES: ClassVar = CHEXPERT_LABELS
    TASKS: ClassVar = {
        "default": Task(as_stored(COMPETITION), **FROM_REPORTS),
        "all": Task(as_stored(CHEXPERT_LABELS), **FROM_REPORTS),
    }
    LICENCE: ClassVar = "Stanford University research use agreement"
    CHEXMASK: ClassVar = "Path"
    OPTIONS: ClassVar = chexmask.OPTION
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
            raise self.nothing(manual_dir, "no train.csv")
        entries = list(read_all(lists, images))
        yield from entries
        listed = {entry.image_id for entry in entries if isinstance(entry, Record)}
        reason = f"no row in {' or '.join(sorted(lists))}"
        yield from folders.not_listed(images, listed, manual_dir, reason)


def parse_labels(cells: Sequence[str], where: str) -> Mapping[str, float]:
    """Maps CHEXPERT_LABELS to cells' 1, 0, -1 or NaN (blank); BuildError for another cell."""
    labels, wrong = _labels(tuple(cells))
    if wrong:  # not raised from a KeyError, which would carry the cell's text along
        raise BuildError(
            f"{where}: {wrong[0]} is neither 1, 0, -1 nor blank. Restore the owner's file."
        )
    return labels


@functools.cache  # among hundreds of thousands of rows few differ: they share one mapping
def _labels(cells: tuple[str, ...]) -> tuple[Mapping[str, float], list[str]]:
    """Returns the labels, and the names of those with another value."""
    named = list(zip(CHEXPERT_LABELS, cells, strict=True))
    wrong = [name for name, cell in named if cell not in _VALUES]
    return {name: _VALUES[cell] for name, cell in named if cell in _VALUES}, wrong


def scan(manual_dir: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Returns images by id ("patient00001/study1/view1_frontal") and tables by name.

    The zips unpack to folders of their own with the patients directly inside, so that only the
    tail of a path says which image it is.

    Raises BuildError: a table is in two folders, or images that differ have one image id.
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
    # The tail of the path, without the suffix.
    return folders.unique(images, lambda path: "/".join((*path.parts[-3:-1], path.stem))), lists


def read_all(lists: Mapping[str, Path], images: Mapping[str, Path]) -> Iterator[Record | Skipped]:
    """Yields the images of all tables."""
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
    """Yields a record a row of train.csv or valid.csv; BuildError where it contradicts its path."""
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)
    for where, (name, sex, age, direction, projection, *cells) in table.select(columns):
        match = _match(name, part, where)
        if direction.lower() != match["direction"]:
            raise BuildError(
                f"{where}: Frontal/Lateral does not fit Path. The columns have been moved against "
                "each other."
            )
        # 17 frontal images have LL or RL, elsewhere lateral, where AP or PA should be.
        precise = direction.lower() == "frontal" and projection in ("AP", "PA")
        yield Record(
            split=split,
            image_id=match["image"],
            patient_id=match["patient"],
            image=images.get(match["image"], table.path.parent / part / f"{match['image']}.jpg"),
            labels=parse_labels(cells, where),
            study_id=match["study"],
            projection=projection if precise else dicom.standard_projection(direction),
            sex={"Female": "F", "Male": "M"}.get(sex, ""),
            # 0 in three rows of a dataset of adults.
            age=csv_table.numbers([age or "nan"], "Age", where)[0] or float("nan"),
            row=where,
        )


def read_test(table: csv_table.Table, images: Mapping[str, Path]) -> Iterator[Record | Skipped]:
    """Yields the images of a table of test studies (`Study`) or images (`Path`)."""
    key = "Study" if "Study" in table.columns else "Path"
    by_study = collections.defaultdict(list)
    for image_id in sorted(images):
        by_study[image_id.rpartition("/")[0]].append(image_id)
    for where, (name, *cells) in table.select((key, *CHEXPERT_LABELS)):
        study = _STUDY.fullmatch(name)
        image_ids = by_study[study[1]] if study else [_match(name, "test", where)["image"]]
        if not image_ids:
            yield Skipped(where, "a study without an image")
        for image_id in image_ids:
            yield Record(
                split="test",
                image_id=image_id,
                patient_id=image_id.partition("/")[0],
                image=images.get(image_id, table.path.parent / "test" / f"{image_id}.jpg"),
                labels=parse_labels(cells, where),
                study_id=image_id.rpartition("/")[0],
                projection=dicom.standard_projection(image_id.rpartition("_")[2]),
                row=where,
            )


def _match(name: str, part: str, where: str) -> re.Match[str]:
    match = _IMAGE.fullmatch(name)
    if match is None or match["part"] != part:
        raise BuildError(
            f"{where}: its path is not an image of {part}, like "
            f"…/{part}/patient…/study…/view…_frontal.jpg."
        )
    return match

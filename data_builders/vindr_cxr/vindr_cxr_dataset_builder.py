"""VinDr-CXR (Nguyen et al. 2022): 18,000 images, read by three radiologists or in consensus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from cxr_jax.data.tasks import Task, as_stored
from cxr_jax.io import dicom
from data_builders.base import boxes, builder, chexmask, csv_table, folders, splits
from data_builders.base.boxes import BoxRow
from data_builders.base.records import Box, BuildError, Record, Skipped

NO_FINDING = "No finding"
# The first 22 are boxed where they are, the others said of the whole image.
LABELS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture"),
    *("Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity"),
    *("Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion"),
    *("Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture", "Other lesion"),
    *("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING),
)
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", NO_FINDING)
# Kaggle's table has the boxes of these, and who found nothing.
KAGGLE_LABELS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD"),
    *("Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion"),
    *("Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", NO_FINDING),
)
# Positive by two of the three readers, counted in Kaggle's train.csv.
KAGGLE_COUNTS = {
    **{"images": 15_000, "Aortic enlargement": 2_346, "Atelectasis": 62, "Calcification": 177},
    **{"Cardiomegaly": 1_817, "Consolidation": 121, "ILD": 152, "Infiltration": 245},
    **{"Lung Opacity": 547, "Nodule/Mass": 405, "Other lesion": 362, "Pleural effusion": 634},
    **{"Pleural thickening": 882, "Pneumothorax": 58, "Pulmonary fibrosis": 1_017},
    **{NO_FINDING: 10_606},
}
NO_PATIENTS = "The owner publishes no patient ids, in tables or DICOM headers."
NUM_READERS = 3
CONSENSUS = "consensus"
VALIDATION_SHARE = 0.1
KAGGLE = "train.csv"
SUFFIXES, PICTURES = (".dicom", ".dcm"), (".png", ".jpg", ".jpeg")
# One label is spelled in two ways, by table.
SPELLINGS = ("Other diseases", "Other disease")


class Builder(builder.CxrBuilder):
    """PhysioNet's folder, or Kaggle's VinBigData, whose test images have no labels."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "With PhysioNet's credentials download vindr-cxr 1.0.0, so that manual_dir holds "
        "annotations/, train/*.dicom and test/*.dicom; or put there train.csv and train/ of "
        "Kaggle's vinbigdata-chest-xray-abnormalities-detection."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/vindr-cxr/1.0.0/"
    LABEL_NAMES: ClassVar = LABELS
    READERS: ClassVar = True
    TASKS: ClassVar = {"global": Task(as_stored(GLOBAL))}
    LICENCE: ClassVar = "PhysioNet Credentialed Health Data License 1.5.0"
    CHEXMASK: ClassVar = "image_id"
    OPTIONS: ClassVar = chexmask.OPTION
    SPLIT_RULE: ClassVar = (
        "PhysioNet: the owner's test; 10 % of the owner's train images, by a fixed hash of the "
        "image, are validation. Kaggle: 70 % train, 10 % validation, 20 % test by that hash. The "
        "owner gives no patients."
    )
    HAS_BOXES: ClassVar = True
    PATIENT: ClassVar = "image"
    PATIENT_NOTE: ClassVar = NO_PATIENTS
    OWNER_COUNTS: ClassVar = {
        "images": 18_000,
        "train+validation images": 15_000,
        "test images": 3_000,
    }

    def owner_counts(self, records: Sequence[Record]) -> Mapping[str, int]:
        physionet = any(record.readers == (CONSENSUS,) for record in records)
        return self.OWNER_COUNTS if physionet else KAGGLE_COUNTS

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        names = ("annotations/image_labels_train.csv", "image_labels_train.csv", KAGGLE)
        root = self.root(manual_dir, *names)
        holding = root / "annotations" if (root / "annotations").is_dir() else root
        if folders.optional(holding, "image_labels_train.csv") is None:
            path = folders.require(root, KAGGLE)
            places = read_places(path, KAGGLE_LABELS)
            yield from self._part(root, "train", path, kaggle_readings(path), places, kaggle=True)
            return
        for part, reader_column in (("train", "rad_id"), ("test", "")):
            path = folders.require(holding, f"image_labels_{part}.csv")
            annotations = folders.optional(holding, f"annotations_{part}.csv")
            places = read_places(annotations, LABELS, reader_column)
            readings = list(read_labels(path, LABELS, reader_column))
            yield from self._part(root, part, path, readings, places)
            marked = lambda row, labels: labels[row.label] == 1  # noqa: E731
            yield from check_places(annotations, places, marked, readings)

    def _part(
        self,
        root: Path,
        part: str,
        table: Path,
        readings: Iterable[Labelled],
        places: Sequence[BoxRow],
        kaggle: bool = False,
    ) -> Iterator[Record | Skipped]:
        suffixes = SUFFIXES + (PICTURES if kaggle else ())
        images = folders.by_stem(root / part, suffixes)
        read = group(readings, NUM_READERS if part == "train" else 1)
        headers, boxed = self.read_tags(images, read), by_image(places)
        for image, said in read.items():
            tags, carved = headers[image], splits.carve_validation(image, VALIDATION_SHARE, part)
            yield Record(
                split=splits.by_patient(image) if kaggle else carved,
                image_id=image,
                patient_id=image,
                patient_known=False,
                image=images.get(image, root / part / f"{image}.dicom"),
                labels={name: tuple(one.labels[name] for one in said) for name in LABELS},
                readers=tuple(one.reader or CONSENSUS for one in said),
                projection="PA",
                sex=tags.sex,
                age=tags.age,
                boxes=boxes_on(tags, boxed[image]),
                row=said[0].where,
            )
        yield from folders.not_listed(images, read, root, f"no row in {table.name}")


def group(readings: Iterable[Labelled], num_readers: int) -> dict[str, list[Labelled]]:
    """Returns image -> what its readers say, in order; BuildError for other readers."""
    by_image: dict[str, list[Labelled]] = defaultdict(list)
    for one in readings:
        by_image[one.image].append(one)
    for said in by_image.values():
        if len({one.reader for one in said}) != num_readers or len(said) != num_readers:
            raise BuildError(
                f"An image has {len(said)} readings ({', '.join(one.where for one in said[:9])}), "
                f"expected {num_readers}, each of another reader. Restore the owner's file."
            )
    return by_image


def kaggle_readings(path: Path) -> Iterator[Labelled]:
    """Yields what each reader boxed, as labels, NaN for those that Kaggle lacks."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    first: dict[tuple[str, str], str] = {}
    for where, fields in csv_table.Table(path).select(("image_id", "rad_id", "class_name")):
        image, reader, name = fields
        found[image, reader].add(known(name, KAGGLE_LABELS, where))
        first.setdefault((image, reader), where)
    for (image, reader), names in found.items():
        where = first[image, reader]
        if NO_FINDING in names and len(names) > 1:
            raise BuildError(
                f"{where}: the reader found {sorted(names)} in the image, which contradicts "
                "itself. Restore the owner's file."
            )
        labels = {name: float(name in names) for name in KAGGLE_LABELS}
        yield Labelled(image, reader, {**dict.fromkeys(LABELS, float("nan")), **labels}, where)


class Labelled(NamedTuple):
    """Labels that one reader gives an image: label -> 1 or 0."""

    image: str
    reader: str
    labels: dict[str, float]
    where: str


def read_labels(path: Path, names: Sequence[str], reader_column: str = "") -> Iterator[Labelled]:
    """Yields the rows of image_labels_train.csv or image_labels_test.csv.

    Args:
      names: the labels; of SPELLINGS, either may head the column.
      reader_column: holds the reader's name, which is "" without it.

    Raises BuildError: a missing column, or a label that is neither 1 nor 0.
    """
    table = csv_table.Table(path)
    others = [spelling for spelling in SPELLINGS if spelling in table.columns]
    columns = [others[0] if name in SPELLINGS and others else name for name in names]
    for where, fields in table.select(["image_id", reader_column or "image_id", *columns]):
        image, reader, *values = fields
        labels = csv_table.flags(names, values, where)
        yield Labelled(image, reader if reader_column else "", labels, where)


def read_places(
    path: Path | None, names: Collection[str] | None = None, reader_column: str = ""
) -> list[BoxRow]:
    """Returns the boxes of all readers; none where there is no table.

    A row whose four corners are blank says that there is nothing to box.

    Args:
      path: annotations_train.csv, annotations_test.csv or Kaggle's train.csv.
      names: the classes that there are; None allows all.
      reader_column: holds the reader's name, which is "" without it.

    Raises BuildError: an unknown class, a corner that is not a number, or "No finding" with a box.
    """
    if path is None:
        return []
    columns = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    places = []
    for where, fields in csv_table.Table(path).select([*columns, reader_column or "image_id"]):
        image, name, *corners, reader = fields
        if names is not None:
            name = known(name, names, where)
        if not any(corners):
            continue
        if name == NO_FINDING:
            raise BuildError(f"{where}: {NO_FINDING!r} has a box. Restore the owner's file.")
        numbers = tuple(csv_table.numbers(corners, "the box's corners", where))
        places.append(BoxRow(image, name, numbers, where, reader if reader_column else ""))
    return places


def known(name: str, names: Collection[str], where: str) -> str:
    """Returns a class's name as `names` has it; BuildError: it is none of them."""
    for spelling in (name, *SPELLINGS) if name in SPELLINGS else (name,):
        if spelling in names:
            return spelling
    raise BuildError(f"{where}: class_name is none of {', '.join(names)}.")


def check_places(
    path: Path | None,
    places: Sequence[BoxRow],
    fits: Callable[[BoxRow, Mapping[str, float]], bool],
    readings: Iterable[Labelled],
) -> Iterator[Skipped]:
    """Compares the boxes of a table with their readers' labels, as boxes.check_rows does.

    `fits` says whether a box and its reader's labels agree.
    """
    said = {(one.image, one.reader): one.labels for one in readings}
    images = {image for image, _ in said}

    def agrees(row: BoxRow) -> bool | None:
        labels = said.get((row.image, row.reader))
        return (labels is not None and fits(row, labels)) if row.image in images else None

    if path is not None:
        yield from boxes.check_rows(places, agrees, path.name)


def by_image(places: Iterable[BoxRow]) -> dict[str, list[BoxRow]]:
    """Groups boxes by their images."""
    found = defaultdict(list)
    for row in places:
        found[row.image].append(row)
    return found


def boxes_on(image: dicom.Tags, places: Sequence[BoxRow]) -> tuple[Box, ...]:
    """Returns the boxes as fractions of an image; none if its size is unknown (a missing image)."""
    if not (image.height and image.width):
        return ()
    size = image.height, image.width
    return tuple(boxes.from_pixels(row.label, row.corners, size, row.where) for row in places)

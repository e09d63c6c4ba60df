"""VinDr-CXR (Nguyen et al. 2022): 18,000 images, read by three radiologists or in consensus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task, as_stored
from data_builders.base import builder, csv_table, folders, splits
from data_builders.base.boxes import BoxRow
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.vindr_cxr import vindr_tables
from data_builders.vindr_cxr.vindr_tables import NO_FINDING, Labelled

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
NUM_READERS = 3
CONSENSUS = "consensus"
VALIDATION_SHARE = 0.1
KAGGLE = "train.csv"
PICTURES = (".png", ".jpg", ".jpeg")


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
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {"global": Task(as_stored(GLOBAL))}
    LICENCE: ClassVar = "PhysioNet Credentialed Health Data License 1.5.0"
    SPLIT_RULE: ClassVar = (
        "PhysioNet: the owner's test; 10 % of the owner's train images, by a fixed hash of the "
        "image, are validation. Kaggle: 70 % train, 10 % validation, 20 % test by that hash. The "
        "owner gives no patients."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {
        "images": 18_000,
        "train+validation images": 15_000,
        "test images": 3_000,
    }

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        names = ("annotations/image_labels_train.csv", "image_labels_train.csv", KAGGLE)
        root = folders.find_root(manual_dir, names, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        holding = root / "annotations" if (root / "annotations").is_dir() else root
        if folders.optional(holding, "image_labels_train.csv") is None:
            path = folders.require(root, KAGGLE)
            places = vindr_tables.read_places(path, KAGGLE_LABELS)
            yield from self._part(root, "train", path, kaggle_readings(path), places, kaggle=True)
            return
        for part, reader_column in (("train", "rad_id"), ("test", "")):
            path = folders.require(holding, f"image_labels_{part}.csv")
            annotations = folders.optional(holding, f"annotations_{part}.csv")
            places = vindr_tables.read_places(annotations, LABELS, reader_column)
            readings = list(vindr_tables.read_labels(path, LABELS, reader_column))
            yield from self._part(root, part, path, readings, places)
            yield from vindr_tables.check_places(
                annotations, places.values(), marked_by_reader, readings
            )

    def _part(
        self,
        root: Path,
        part: str,
        table: Path,
        readings: Iterable[Labelled],
        places: Mapping[str, Sequence[BoxRow]],
        kaggle: bool = False,
    ) -> Iterator[Record | Skipped]:
        suffixes = vindr_tables.SUFFIXES + (PICTURES if kaggle else ())
        images = folders.by_stem(root / part, suffixes)
        by_image = group(readings, NUM_READERS if part == "train" else 1)
        headers = self.read_tags(images, by_image)
        for image, said in by_image.items():
            if kaggle:
                split = splits.by_patient(image)
            else:
                carved = splits.carve_validation(image, VALIDATION_SHARE)
                split = carved if part == "train" else part
            tags = headers[image]
            yield Record(
                split=split,
                image_id=image,
                patient_id=image,
                image=images.get(image, root / part / f"{image}.dicom"),
                labels={name: tuple(one.labels[name] for one in said) for name in LABELS},
                readers=tuple(one.reader or CONSENSUS for one in said),
                projection="PA",
                sex=tags.sex,
                age=tags.age,
                boxes=vindr_tables.boxes_on(tags, places.get(image, ())),
                row=said[0].where,
            )
        yield from folders.not_listed(images, by_image, root, f"no row in {table.name}")


def marked_by_reader(row: BoxRow, said: Labelled) -> bool:
    """Returns whether the reader who drew a box has its finding among the image's labels."""
    return said.labels[row.label] == 1


def group(readings: Iterable[Labelled], num_readers: int) -> dict[str, list[Labelled]]:
    """Returns image -> what its readers say, in the table's order.

    Raises:
      BuildError: an image has more or fewer readers, or one of them twice.
    """
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
    """Yields what each reader of an image boxed, as labels; NaN for those that Kaggle lacks.

    Raises:
      BuildError: an unknown class, or a reader who found something and nothing in one image.
    """
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    first: dict[tuple[str, str], str] = {}
    for where, fields in csv_table.Table(path).select(("image_id", "rad_id", "class_name")):
        image, reader, name = fields
        found[image, reader].add(vindr_tables.known(name, KAGGLE_LABELS, where))
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

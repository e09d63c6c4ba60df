"""VinDr-PCXR (Pham et al. 2022): 9,125 chest images of children, 15 labels."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task, as_stored
from data_builders.base import builder, folders, splits
from data_builders.base.boxes import BoxRow
from data_builders.base.records import Record, Skipped
from data_builders.vindr_cxr import vindr_cxr_dataset_builder as vindr_cxr
from data_builders.vindr_cxr.vindr_cxr_dataset_builder import NO_FINDING

# The misspellings are the owner's.
LABELS = (
    *("No finding", "Bronchitis", "Brocho-pneumonia", "Other disease", "Bronchiolitis"),
    *("Situs inversus", "Pneumonia", "Pleuro-pneumonia", "Diagphramatic hernia", "Tuberculosis"),
    *("Congenital emphysema", "CPAM", "Hyaline membrane disease", "Mediastinal tumor"),
    "Lung tumor",
)
# The other labels have at most 19 positive images in train and 3 in test.
FREQUENT = (
    *("No finding", "Bronchitis", "Brocho-pneumonia", "Bronchiolitis", "Pneumonia"),
    "Other disease",
)
VALIDATION_SHARE = 0.1
# The authors say so of all images; a header that says more goes first.
PROJECTION = "PA"


class Builder(builder.CxrBuilder):
    """PhysioNet's folder; one reader an image."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Sign the agreement of PhysioNet's vindr-pcxr 1.0.0 and download it, so that manual_dir "
        "holds image_labels_train.csv, image_labels_test.csv, annotations_train.csv, "
        "annotations_test.csv, train/*.dicom and test/*.dicom."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/vindr-pcxr/1.0.0/"
    LABEL_NAMES: ClassVar = LABELS
    TASKS: ClassVar = {"default": Task(as_stored(FREQUENT))}
    LICENCE: ClassVar = "PhysioNet Restricted Health Data License 1.5.0"
    SPLIT_RULE: ClassVar = (
        "The owner's test; 10 % of the owner's train images, by a fixed hash of the image, are "
        "validation. The owner gives no patients."
    )
    HAS_BOXES: ClassVar = True
    PATIENT: ClassVar = "image"
    PATIENT_NOTE: ClassVar = vindr_cxr.NO_PATIENTS
    OWNER_COUNTS: ClassVar = {
        "images": 9_125,
        "train+validation images": 7_728,
        "test images": 1_397,
    }

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, "image_labels_train.csv")
        for part in ("train", "test"):
            table = folders.require(root, f"image_labels_{part}.csv")
            # The boxes' classes are local findings, 36 that no table of labels names.
            annotations = folders.optional(root, f"annotations_{part}.csv")
            places = vindr_cxr.read_places(annotations)
            boxed = vindr_cxr.by_image(places)
            rows = list(vindr_cxr.read_labels(table, LABELS))
            images = folders.by_stem(root / part, vindr_cxr.SUFFIXES)
            headers = self.read_tags(images, (row.image for row in rows))
            for row in rows:
                tags = headers[row.image]
                yield Record(
                    split=splits.carve_validation(row.image, VALIDATION_SHARE, part),
                    image_id=row.image,
                    patient_id=row.image,
                    patient_known=False,
                    image=images.get(row.image, root / part / f"{row.image}.dicom"),
                    labels=row.labels,
                    projection=tags.projection or PROJECTION,
                    sex=tags.sex,
                    age=tags.age,
                    boxes=vindr_cxr.boxes_on(tags, boxed[row.image]),
                    row=row.where,
                )
            listed = {row.image for row in rows}
            yield from folders.not_listed(images, listed, root, f"no row in {table.name}")
            yield from vindr_cxr.check_places(annotations, places, may_be_boxed, rows)


def may_be_boxed(row: BoxRow, labels: Mapping[str, float]) -> bool:
    """Returns whether an image's labels allow a box: its label, or for other boxes any finding."""
    return labels.get(row.label, 1.0) == 1 and labels[NO_FINDING] == 0

"""RSNA Pneumonia Detection Challenge (2018): 26,684 images, lung opacities boxed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task
from cxr_jax.io import dicom
from data_builders.base import builder, folders, parallel, splits
from data_builders.base.records import Record, Skipped
from data_builders.rsna_pneumonia import labels


class Builder(builder.CxrBuilder):
    """Kaggle's folder; only stage_2_train_images has labels, and is split here by patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Accept the rules of Kaggle's rsna-pneumonia-detection-challenge, download it and unpack "
        "stage_2_train_labels.csv, stage_2_detailed_class_info.csv (optional) and "
        "stage_2_train_images/*.dcm into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
    LABEL_NAMES: ClassVar = labels.CLASSES
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {"default": Task({labels.OPACITY: labels.OPACITY})}
    PARENT: ClassVar = "nih_chestxray14"
    LICENCE: ClassVar = "the rules of the RSNA challenge"
    SPLIT_RULE: ClassVar = (
        "70 % train, 10 % validation, 20 % test by a fixed hash of the patient; the owner's "
        "stage-2 test images have no labels and are not part."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 26_684, "patients": 26_684, labels.OPACITY: 6_012}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = folders.find_root(manual_dir, (labels.TARGETS,), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        findings = labels.read(root)
        folder = root / "stage_2_train_images"
        images = folders.by_stem(folder, (".dcm", ".dicom"))
        present = [(image, images[image]) for image in findings if image in images]
        headers = dict(parallel.parallel_map(dicom.read_tags, present, self.settings.num_workers))
        for image, finding in findings.items():
            tags = headers.get(image) or dicom.NO_TAGS
            yield Record(
                split=splits.by_patient(image),
                image_id=image,
                patient_id=image,
                image=images.get(image, folder / f"{image}.dcm"),
                labels=finding.labels,
                study_id=tags.study_id,
                projection=dicom.standard_projection(tags.projection),
                sex=tags.sex,
                age=tags.age,
                boxes=finding.boxes,
                row=finding.where,
            )
        for image in sorted(images.keys() - findings.keys()):
            name = images[image].relative_to(root).as_posix()
            yield Skipped(name, f"no row in {labels.TARGETS}")

"""REFLACX (Bigolin Lanfredi et al. 2022): readers' certainties and ellipses for MIMIC-CXR images."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task, as_stored
from data_builders.base import builder, folders
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.mimic_cxr import release
from data_builders.reflacx import readings
from data_builders.reflacx.readings import Reading


class Builder(builder.CxrBuilder):
    """Labels and boxes only; the images are MIMIC-CXR-JPG's. An image's readings are its readers."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Download main_data of https://physionet.org/content/reflacx-xray-localization/ (gaze_data "
        "is not needed) into manual_dir; the images are MIMIC-CXR-JPG's: give its folder with "
        "--mimic_dir, or put both into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://physionet.org/content/reflacx-xray-localization/"
    LABEL_NAMES: ClassVar = readings.LABELS
    LABEL_SCALE: ClassVar = "certainty"
    READERS: ClassVar = True
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {"default": Task(as_stored(readings.PHASES[3]), certainty=3.0)}
    PARENT: ClassVar = "mimic_cxr"
    LICENCE: ClassVar = "PhysioNet restricted access licence"
    SPLIT_RULE: ClassVar = "MIMIC-CXR's split file; validate is validation."
    HAS_BOXES: ClassVar = True
    INPUTS: ClassVar = {"mimic_dir": release.WHERE_TO_GET}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = folders.find_root(
            manual_dir, tuple(readings.TABLES.values()), self.MANUAL_DOWNLOAD_INSTRUCTIONS
        )
        mimic = release.find_root(self.input_dir("mimic_dir", manual_dir))
        of_image: dict[str, list[Reading]] = collections.defaultdict(list)
        for reading in readings.read_readings(root):
            of_image[reading.dicom_id].append(reading)
        images = {
            image.dicom_id: image
            for image in release.read_images(mimic)
            if image.dicom_id in of_image
        }
        splits = release.read_splits(mimic)
        present = readings.reading_folders(root)
        for dicom_id, of_one in of_image.items():
            of_one.sort(key=lambda reading: reading.reading_id)
            if dicom_id not in images or dicom_id not in splits:
                table = "split file" if dicom_id in images else "metadata"
                yield Skipped(of_one[0].where, f"not in MIMIC's {table}")
                continue
            image, split = images[dicom_id], splits[dicom_id].name
            for reading in of_one:
                check_image(reading, image, split)
            yield Record(
                split=split,
                image_id=dicom_id,
                patient_id=image.subject_id,
                image=release.image_path(mimic, image),
                labels=merge_labels(of_one),
                readers=tuple(reading.reading_id for reading in of_one),
                study_id=f"s{image.study_id}",
                projection=image.view,
                boxes=tuple(
                    box for reading in of_one for box in readings.read_boxes(root, reading, present)
                ),
                row=of_one[0].where,
            )


def merge_labels(of_one: Sequence[Reading]) -> dict[str, tuple[float, ...]]:
    """Label -> one value a reading; NaN where its phase does not ask for the label."""
    unasked = float("nan")
    return {
        name: tuple(reading.labels.get(name, unasked) for reading in of_one)
        for name in readings.LABELS
    }


def check_image(reading: Reading, image: release.Radiograph, split: str) -> None:
    """Refuses a reading that MIMIC knows under another patient, study or split.

    Raises:
      BuildError: names the row and both.
    """
    place = f"/p{image.subject_id}/s{image.study_id}/{image.dicom_id}."
    if reading.subject_id != image.subject_id or place not in reading.image:
        raise BuildError(
            f"{reading.where}: subject_id and image are not those that MIMIC has for its image "
            f"({image.where}). The rows or columns have been moved against each other."
        )
    if release.SPLITS.get(reading.split) != split:
        raise BuildError(
            f"{reading.where}: in MIMIC's split file the image is in {split}, not in the split "
            "here. Restore both tables."
        )

"""Pediatric pneumonia (Kermany et al. 2018): 5,856 films of children, pneumonia or normal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from data_builders import cxr_builder, folders, splits
from data_builders.records import Record, Skipped

LABEL = "Pneumonia"
CLASSES = {"NORMAL": 0.0, "PNEUMONIA": 1.0}
# Kaggle's validation part has 16 films, too few to choose anything on: they join train.
PARTS = {"train": "train", "val": "train", "test": "test"}
VALIDATION_SHARE = 0.1

_PATIENT = re.compile(r"(person\d+)_|((?:NORMAL2-)?IM-\d+)-")


class Builder(cxr_builder.CxrBuilder):
    """Kaggle's or Mendeley's folder tree; the class is the folder, the patient is in the name."""

    VERSION: ClassVar = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = cxr_builder.resolution_configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Unpack Kaggle's paultimothymooney/chest-xray-pneumonia or Mendeley's ChestXRay2017.zip "
        "(doi:10.17632/rscbjbr9sj.2), so that chest_xray/train/NORMAL/*.jpeg exists below "
        "manual_dir."
    )
    HOMEPAGE: ClassVar = "https://doi.org/10.17632/rscbjbr9sj.2"
    LABEL_NAMES: ClassVar = (LABEL,)
    TASK: ClassVar = "binary"
    OWNER_COUNTS: ClassVar = {"images": 5_856, "test images": 624, LABEL: 4_273}
    LICENCE: ClassVar = "CC BY 4.0"
    SPLIT_RULE: ClassVar = (
        "The owner's test; 10 % of the patients of the owner's train (and 16-film val), by a "
        "fixed hash of the patient, are validation."
    )

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = folders.find_root(
            manual_dir, ("train/NORMAL", "train/PNEUMONIA"), self.MANUAL_DOWNLOAD_INSTRUCTIONS
        )
        for path in folders.files_below(root):
            name = path.relative_to(root)
            if len(name.parts) != 3 or name.parts[0] not in PARTS or name.parts[1] not in CLASSES:
                continue
            if path.suffix.lower() not in (".jpeg", ".jpg"):
                continue
            part = PARTS[name.parts[0]]
            match = _PATIENT.match(name.name)
            if match is None:
                yield Skipped(name.as_posix(), "no patient number in the file's name")
                continue
            # Whether numbers go on across train and test is unknown, so they are kept apart.
            patient = f"{part}/{match[1] or match[2]}"
            yield Record(
                split=(
                    splits.carve_validation(patient, VALIDATION_SHARE) if part == "train" else part
                ),
                image_id=name.with_suffix("").as_posix(),
                patient_id=patient,
                film=path,
                labels={LABEL: CLASSES[name.parts[1]]},
                view="AP",
                row=name.as_posix(),
            )

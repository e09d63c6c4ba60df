"""SIIM-ACR Pneumothorax (2019): 12,047 images, with the outline of every pneumothorax."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.io import dicom
from data_builders.base import builder, folders, parallel, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.siim_acr_pneumothorax import png_copy, rle

LABEL = "Pneumothorax"
HELD_OUT = "dicom-images-test/"
# As many of the owner's stage-1 training images as others hold back for validation.
VALIDATION_SHARE = 1 / 8


class Builder(builder.CxrBuilder):
    """The competition's DICOM files with outlines as run lengths, or the copy in PNG on Kaggle."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Put into manual_dir either train-rle.csv (or stage_2_train.csv) with dicom-images-train/ "
        "and dicom-images-test/ of the SIIM-ACR Pneumothorax Segmentation competition, or Kaggle's "
        "vbookshelf/pneumothorax-chest-xray-images-and-masks with png_images/ and png_masks/."
    )
    HOMEPAGE: ClassVar = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation"
    LABEL_NAMES: ClassVar = (LABEL,)
    TASK: ClassVar = "binary"
    PARENT: ClassVar = "nih_chestxray14"
    LICENCE: ClassVar = "the rules of the SIIM-ACR competition"
    SPLIT_RULE: ClassVar = (
        "DICOM: 70 % train, 10 % validation, 20 % test by a fixed hash of the patient. PNG copy: "
        "the owner's stage-1 test; one eighth of its train images, by a fixed hash, are validation."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 12_047, LABEL: 2_669}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = folders.find_root(
            manual_dir, (*rle.TABLES, png_copy.IMAGES), self.MANUAL_DOWNLOAD_INSTRUCTIONS
        )
        if (root / png_copy.IMAGES).is_dir():
            return self._png_records(root)
        return self._dicom_records(root)

    def _dicom_records(self, root: Path) -> Iterator[Record | Skipped]:
        path = folders.require(root, *rle.TABLES)
        outlines = rle.read(path, LABEL)
        images = folders.by_stem(root, (".dcm", ".dicom"))
        present = [(image, images[image]) for image in outlines if image in images]
        headers = dict(parallel.parallel_map(dicom.read_tags, present, self.settings.num_workers))
        for image, outline in outlines.items():
            tags = headers.get(image) or dicom.NO_TAGS
            patient = tags.patient_id or image
            yield Record(
                split=splits.by_patient(patient),
                image_id=image,
                patient_id=patient,
                image=images.get(image, root / "dicom-images-train" / f"{image}.dcm"),
                labels={LABEL: float(bool(outline.boxes))},
                study_id=tags.study_id,
                projection=dicom.standard_projection(tags.projection),
                sex=tags.sex,
                age=tags.age,
                boxes=outline.boxes,
                row=outline.where,
            )
        for image in sorted(images.keys() - outlines.keys()):
            name = images[image].relative_to(root).as_posix()
            if HELD_OUT not in name:  # the competition's test images had no outlines at first
                yield Skipped(name, f"no row in {path.name}")

    def _png_records(self, root: Path) -> Iterator[Record | Skipped]:
        images = folders.by_stem(root / png_copy.IMAGES, (".png",))
        masks = folders.by_stem(root / png_copy.MASKS, (".png",))
        rows = list(png_copy.rows(root, images))
        outlined = [(row.stem, masks[row.stem]) for row in rows if row.label and row.stem in masks]
        boxes = dict(
            parallel.parallel_map(png_copy.mask_boxes, outlined, self.settings.num_workers)
        )
        for row in rows:
            places = boxes.get(row.stem, ())
            if places is None:
                name = masks[row.stem].relative_to(root).as_posix()
                yield Skipped(name, "a mask that cannot be read; its image has no boxes")
            elif row.stem in boxes and not places:
                raise BuildError(
                    f"{masks[row.stem]} is empty, but {row.where} says that its image shows a "
                    "pneumothorax. Restore the owner's file."
                )
            image_id = f"{row.number}_{row.part}"
            part = row.part
            yield Record(
                split=splits.carve_validation(image_id, VALIDATION_SHARE)
                if part == "train"
                else part,
                image_id=image_id,
                patient_id=image_id,
                image=images.get(row.stem, root / png_copy.IMAGES / f"{row.stem}.png"),
                labels={LABEL: float(row.label)},
                boxes=tuple(png_copy.as_boxes(LABEL, places or ())),
                row=row.where,
            )
        for stem in sorted(images.keys() - {row.stem for row in rows}):
            yield Skipped(images[stem].relative_to(root).as_posix(), "no row in the stage-1 tables")

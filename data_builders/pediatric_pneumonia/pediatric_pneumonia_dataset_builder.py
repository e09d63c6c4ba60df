"""Pediatric pneumonia (Kermany et al. 2018): 5,856 images of children, pneumonia or normal."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import ClassVar

from cxr_jax.io import image_io
from data_builders.base import builder, folders, splits
from data_builders.base.records import BuildError, Record, Skipped

LABEL = "Pneumonia"
CLASSES = {"NORMAL": 0.0, "PNEUMONIA": 1.0}
# Kaggle's validation part has 16 images, too few to choose anything on: they join train.
PARTS = {"train": "train", "val": "train", "test": "test"}
VALIDATION_SHARE = 0.1
SUFFIXES = frozenset({".jpeg", ".jpg"})
PICTURES = image_io.SUFFIXES | folders.OTHER_PICTURES
NESTED = "chest_xray"

_PATIENT = re.compile(r"(person\d+)_|((?:NORMAL2-)?IM-\d+)-")


class Builder(builder.CxrBuilder):
    """Kaggle's or Mendeley's folder tree; the class is the folder, the patient is in the name."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Unpack Kaggle's paultimothymooney/chest-xray-pneumonia or Mendeley's ChestXRay2017.zip "
        "(doi:10.17632/rscbjbr9sj.2), so that chest_xray/train/NORMAL/*.jpeg exists below "
        "manual_dir."
    )
    HOMEPAGE: ClassVar = "https://doi.org/10.17632/rscbjbr9sj.2"
    LABEL_NAMES: ClassVar = (LABEL,)
    OWNER_COUNTS: ClassVar = {"images": 5_856, "test images": 624, LABEL: 4_273}
    LICENCE: ClassVar = "CC BY 4.0"
    SPLIT_RULE: ClassVar = (
        "The owner's test; 10 % of the patients of the owner's train (and 16-image val), by a "
        "fixed hash of the patient, are validation."
    )

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, "train/NORMAL", "train/PNEUMONIA")
        pictures = (p for p in folders.files_below(root) if p.suffix.lower() in PICTURES)
        found = folders.unique(pictures, lambda path: own_name(path.relative_to(root)))
        check_complete(root, found)
        for name, path in found.items():
            reason = why_no_image(name)
            if reason:
                yield Skipped(path.relative_to(root).as_posix(), reason)
                continue
            owners_part, kind, file = name.split("/")
            part, match = PARTS[owners_part], _PATIENT.match(file)
            # Whether numbers go on across train and test is unknown, so they are kept apart.
            patient = f"{part}/{match[1] or match[2]}"
            yield Record(
                split=splits.carve_validation(patient, VALIDATION_SHARE, part),
                image_id=name.rpartition(".")[0],
                patient_id=patient,
                image=path,
                labels={LABEL: CLASSES[kind]},
                projection="AP",
                row=name,
            )


def own_name(name: PurePath) -> str:
    """Returns "train/NORMAL/x.jpeg" of a file's path below the root, without leading chest_xray/.

    Kaggle's archive holds the whole tree once more in that folder.
    """
    parts = name.parts
    while parts[0] == NESTED and len(parts) > 1:
        parts = parts[1:]
    return "/".join(parts)


def why_no_image(name: str) -> str:
    """Returns why a picture is none of the owner's images; "" if it is one."""
    parts = name.split("/")
    if len(parts) != 3 or parts[0] not in PARTS or parts[1] not in CLASSES:
        return f"not in a folder {' or '.join(PARTS)} with {' or '.join(CLASSES)}"
    if PurePath(name).suffix.lower() not in SUFFIXES:
        return "not a JPEG by its name, as the owner's images are"
    return "" if _PATIENT.match(parts[2]) else "no patient number in the file's name"


def check_complete(root: Path, names: Iterable[str]) -> None:
    """Raises BuildError if a class of the owner's train or test has no image: a broken download."""
    filled = {name.rpartition("/")[0] for name in names if not why_no_image(name)}
    for part in ("train", "test"):
        for kind in CLASSES:
            if f"{part}/{kind}" not in filled:
                raise BuildError(f"{root / part / kind} holds no image. Unpack the archive again.")

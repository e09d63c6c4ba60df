"""JSRT (Shiraishi et al. 2000): 247 images, a lung nodule or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from cxr_jax.data.tasks import Task
from data_builders.base import builder, folders, splits
from data_builders.base.records import BuildError, Record, Skipped
from data_builders.jsrt.clinical_tables import MALIGNANT, NODULE, read_nodules, read_normals
from data_builders.jsrt.img_image import ImgImage

TABLES = {"CLNDAT_EN.txt": read_nodules, "CNNDAT_EN.TXT": read_normals}


class Builder(builder.CxrBuilder):
    """The owner's raw images and two tables, at any depth; each image is another patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Register at http://db.jsrt.or.jp/eng.php and unpack All247images.zip (or "
        "Nodule154images.zip and NonNodule93images.zip; JPCLN001.IMG …) and "
        f"Clinical_Information.zip ({', '.join(TABLES)}) into manual_dir."
    )
    HOMEPAGE: ClassVar = "http://db.jsrt.or.jp/eng.php"
    LABEL_NAMES: ClassVar = (NODULE, MALIGNANT)
    TASK: ClassVar = "multilabel"
    TASKS: ClassVar = {
        "default": Task({NODULE: NODULE}),
        "malignant": Task({MALIGNANT: MALIGNANT}),
    }
    LICENCE: ClassVar = "research use, on registration with JSRT"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 247, "patients": 247, NODULE: 154}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        imgs = (path for path in files if path.suffix.upper() == ".IMG")
        images = folders.unique(imgs, lambda path: path.stem.upper())
        names = [name.casefold() for name in TABLES]
        lists = (path for path in files if path.name.casefold() in names)
        tables = folders.unique(lists, lambda path: path.name.casefold())
        listed = set()
        for name, read in TABLES.items():
            if name.casefold() not in tables:
                raise BuildError(
                    f"{manual_dir} holds no {name}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
                )
            for patient in read(tables[name.casefold()]):
                listed.add(patient.name)
                yield Record(
                    split=splits.by_patient(patient.name),
                    image_id=patient.name,
                    patient_id=patient.name,
                    image=ImgImage(images.get(patient.name, manual_dir / f"{patient.name}.IMG")),
                    labels=patient.labels,
                    projection="PA",
                    sex=patient.sex,
                    age=patient.age,
                    boxes=patient.boxes,
                    row=patient.where,
                )
        for name in sorted(images.keys() - listed):
            yield Skipped(
                images[name].relative_to(manual_dir).as_posix(), f"no row in {' or '.join(TABLES)}"
            )

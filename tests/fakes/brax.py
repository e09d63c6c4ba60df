"""BRAX in miniature.

Quirks: a leading column of row numbers, or none; the table's two names; PatientID with or without
"id_"; a PngPath with a longer ending than the file's; age groups and "85 or more", sex O; odd and
blank projections; blank, -1, integer and decimal cells; a 16-bit PNG, an unreadable image, a row
without a image, an image without a row, DICOM files that nobody reads.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Lesion", "Lung Opacity"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
HEADER = (
    *("DicomPath", "PngPath", "PatientID", "PatientSex", "PatientAge", "AccessionNumber"),
    *("StudyDate", *LABELS, "ViewPosition", "Rows", "Columns", "Manufacturer"),
)
PROJECTIONS = {"PA": "PA", "L": "LATERAL", "AP": "AP", "": "", "AP LLD": "AP LLD", "RL": "LATERAL"}
PROJECTIONS |= {"LT-DECUB": "LT-DECUB", "RLO": "RLO"}
AGES = {"45": 45.0, "85 or more": 85.0, "0": 0.0, "": float("nan"), "20": 20.0}
SEXES = {"F": "F", "M": "M", "O": ""}
NUM_PATIENTS = 15
IMAGES_EACH = 2
CORRUPT, ROW_WITHOUT_FILE, DEEP = 3, 8, 10  # numbers of images
FILE_WITHOUT_ROW = "images/id_stray/Study_1.2/Series_1.3/image-1.4.png"

LAYOUTS = {
    "1.1.0": {},
    "1.0.0, no index, wrapped": {
        "table": "master_spreadsheet.csv",
        "index": False,
        "bare_ids": True,
        "folder_name": "brax/1.0.0",
    },
    "odd endings": {"ending": ".png.000000"},
}


class FakeImage(NamedTuple):
    """What the fake says of one image; labels hold the cells' text."""

    picture: np.ndarray
    labels: dict[str, str]
    patient: str
    study: str
    projection: str
    sex: str
    age: float


def write(
    folder: Path,
    *,
    table: str = "master_spreadsheet_update.csv",
    index: bool = True,
    bare_ids: bool = False,
    folder_name: str = "",
    ending: str = ".png",
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      table: the spreadsheet's name.
      index: a leading column of row numbers, without a name.
      bare_ids: PatientID lacks "id_".
      folder_name: lies in between.
      ending: of PngPath; that of the files is .png.
    """
    root = folder / folder_name
    lines, images = [",".join((*([""] if index else []), *HEADER))], {}
    for number in range(NUM_PATIENTS * IMAGES_EACH):
        patient = f"{number // IMAGES_EACH:04x}beef"
        image_id = f"id_{patient}/Study_1.{number // 2}/Series_2.{number}/image-3.{number}"
        projection, age, sex = (
            list(choices)[number % len(choices)] for choices in (PROJECTIONS, AGES, SEXES)
        )
        labels = dict.fromkeys(LABELS, "")
        labels[LABELS[number % 14]] = "1.0" if number % 2 else "1"
        labels[LABELS[(number + 3) % 14]] = "-1.0"
        labels[LABELS[(number + 7) % 14]] = "0.0"
        study = f"{number // 2:04}acc"
        cells = (
            *([str(number)] if index else []),
            f"Anonymized_DICOMs/{image_id}.dcm",
            f"images/{image_id}{ending}",
            patient if bare_ids else f"id_{patient}",
            *(sex, age, study, "20100101"),
            *(*labels.values(), projection, "64", "72", "1"),
        )
        lines.append(",".join(cells))
        if number == ROW_WITHOUT_FILE:
            continue
        picture = draw_image(number, 64, 72)
        path = root / "images" / f"{image_id}.png"
        _save(path, picture, deep=number == DEEP)
        if number == CORRUPT:
            path.write_bytes(path.read_bytes()[:100])
            continue
        images[image_id] = FakeImage(
            picture, labels, f"id_{patient}", study, PROJECTIONS[projection], SEXES[sex], AGES[age]
        )
    _save(root / FILE_WITHOUT_ROW, draw_image(0, 64, 72))
    (root / "Anonymized_DICOMs" / "id_x").mkdir(parents=True)
    (root / "Anonymized_DICOMs" / "id_x" / "image-w").write_bytes(bytes(128) + b"DICM")
    (root / table).write_text("\n".join(lines) + "\n")
    return images


def _save(path: Path, picture: np.ndarray, deep: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # 12 of 16 bits, as detectors have.
    Image.fromarray(picture.astype(np.uint16) * 16 if deep else picture).save(path)

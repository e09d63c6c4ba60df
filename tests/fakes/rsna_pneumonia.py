"""The RSNA Pneumonia Detection Challenge in miniature, as Kaggle packs it.

Quirks: several rows for an image with several boxes, blank boxes, a box beyond the image's edge,
one class row for every label row, the class name with a slash, JPEG Baseline DICOM, ages without Y,
one of them 155; an image without pixels, one whose header is broken, a row without an image, an
image without a row, unlabelled images in stage_2_test_images/. On request .csv.gz, .DCM and a
wrapping folder, or no classes, or with
RSNA's mapping to NIH's images, three of a person.
"""

import gzip
import json
import uuid
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import draw_image

LAYOUTS = {
    "kaggle": {},
    "repacked": {"repacked": True},
    "without classes": {"with_classes": False},
    "with the mapping": {"with_mapping": True},
}
CLASSES = ("Lung Opacity", "Normal", "No Lung Opacity / Not Normal")
NUM_IMAGES = 30
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def patient_id(number: int) -> str:
    return str(uuid.UUID(int=number + (0x4CFAB << 108)))


NO_PIXELS, BROKEN, ROW_WITHOUT_FILE, FILE_WITHOUT_ROW, IMPOSSIBLE_AGE = map(
    patient_id, (4, 5, 7, 90, 9)
)
# x, y, width, height of the boxes of image n: BOXES[n % 6].
BOXES = (
    [(256.0, 128.0, 512.0, 64.0)],
    [],
    [],
    [(0.0, 0.0, 102.4, 204.8), (768.0, 512.0, 300.0, 256.0)],
    [],
    [],
)


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    finding: str
    person: str  # NIH's number
    boxes: list[tuple[str, float, float, float, float]]  # label, y0, x0, y1, x1
    sex: str
    age: float
    projection: str


def write(
    folder: Path, *, repacked: bool = False, with_classes: bool = True, with_mapping: bool = False
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      repacked: in a wrapping folder, with .csv.gz and .DCM.
      with_classes: with stage_2_detailed_class_info.csv.
      with_mapping: with RSNA's list of NIH's images.
    """
    root = folder / "rsna-pneumonia-detection-challenge" if repacked else folder
    targets, info, images = ["patientId,x,y,width,height,Target"], ["patientId,class"], {}
    for number in [*range(NUM_IMAGES), 90]:
        name, boxes = patient_id(number), BOXES[number % 6]
        finding = CLASSES[0] if boxes else CLASSES[1 + number % 2]
        if name != FILE_WITHOUT_ROW:
            rows = [",".join(map(str, box)) + ",1" for box in boxes] or [",,,,0"]
            targets.extend(f"{name},{row}" for row in rows)
            info.extend([f"{name},{finding}"] * len(rows))
        if name == ROW_WITHOUT_FILE:
            continue
        picture = draw_image(number, 64, 64)
        age = 155 if name == IMPOSSIBLE_AGE else 20 + number
        sex, projection = "FM"[number % 2], ("PA", "AP")[number % 2]
        path = root / "stage_2_train_images" / f"{name}{'.DCM' if repacked else '.dcm'}"
        pixels = None if name == NO_PIXELS else picture
        write_image(path, pixels, name, sex, age, projection)
        if name == BROKEN:
            path.write_bytes(path.read_bytes()[:150])
        if name in (NO_PIXELS, BROKEN, FILE_WITHOUT_ROW):
            continue
        places = [as_fractions(*box) for box in boxes]
        images[name] = FakeImage(
            picture, finding, person(number), places, sex, age if age < 120 else np.nan, projection
        )
    picture = draw_image(91, 64, 64)
    write_image(root / "stage_2_test_images" / "91.dcm", picture, patient_id(91), "F", 50, "PA")
    if with_mapping:
        (root / MAPPING).write_text(json.dumps([entry(n) for n in reversed(range(NUM_IMAGES))]))
    tables = {"stage_2_train_labels": targets}
    if with_classes:
        # The tables are not in the same order.
        tables["stage_2_detailed_class_info"] = [info[0], *reversed(info[1:])]
    for name, lines in tables.items():
        text = "\n".join([*lines, ""])
        if repacked:
            (root / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (root / f"{name}.csv").write_text(text)
    return images


def person(number: int) -> str:
    """NIH's number of the person on image `number`: three images each."""
    return str(138 + number // 3)


def entry(number: int) -> dict[str, str]:
    """What RSNA's mapping says of an image."""
    return {
        "subset_img_id": patient_id(number),
        "img_id": f"{person(number):0>8}_{number % 3:03}.png",
        "subset_group": "train",
        "orig_labels": ["Pneumonia"],
        "SOPInstanceUID": f"1.2.276.0.7230010.3.1.4.8323329.{number}",
    }


def write_image(
    path: Path, pixels: np.ndarray | None, patient: str, sex: str, age: int, projection: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom misses the age's Y
        write_dicom(
            path,
            pixels,
            coding="jpeg",
            patient=patient,
            Modality="CR",
            PatientSex=sex,
            PatientAge=str(age),
            ViewPosition=projection,
        )


def as_fractions(x: float, y: float, width: float, height: float) -> tuple:
    x1, y1 = min(x + width, 1024), min(y + height, 1024)
    return "Lung Opacity", y / 1024, x / 1024, y1 / 1024, x1 / 1024

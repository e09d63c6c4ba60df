"""RANZCR CLiP in miniature, as Kaggle packs it.

Quirks: PatientIDs that look like numbers (12e456789, 000000012), label names with " - ", a colour
JPEG, several lines on an image, among them one beyond its edge, lines on an image that is not
there, a truncated image, a row without an image, an image without a row, unlabelled images in test/
and in a sample_submission.csv of zeros, TFRecords that nobody reads; on request CRLF, .csv.gz, .JPG
and a wrapping folder, or no lines at all.
"""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LABELS = (
    "ETT - Abnormal",
    "ETT - Borderline",
    "ETT - Normal",
    "NGT - Abnormal",
    "NGT - Borderline",
    "NGT - Incompletely Imaged",
    "NGT - Normal",
    "CVC - Abnormal",
    "CVC - Borderline",
    "CVC - Normal",
    "Swan Ganz Catheter Present",
)
LAYOUTS = {
    "kaggle": {},
    "repacked": {"repacked": True},
    "without lines": {"with_lines": False},
}
NUM_PATIENTS = 16
HEIGHT, WIDTH = 80, 64


def uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.9{number:037}"


LINED, COLOUR, TRUNCATED, ROW_WITHOUT_FILE, FILE_WITHOUT_ROW = map(uid, (0, 3, 4, 7, 900))


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    positive: set[str]
    patient: str
    boxes: list[tuple[str, float, float, float, float]]  # label, y0, x0, y1, x1


def write(folder: Path, *, repacked: bool = False, with_lines: bool = True) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      repacked: in a wrapping folder, with .csv.gz, CRLF and .JPG.
      with_lines: with train_annotations.csv.
    """
    root = folder / "ranzcr-clip-catheter-line-classification" if repacked else folder
    header = ",".join(("StudyInstanceUID", *LABELS))
    rows, images = [f"{header},PatientID"], {}
    for number in range(2 * NUM_PATIENTS):
        name, patient = uid(number), patient_id(number // 2)
        positive = {LABELS[number % 11], LABELS[number * 3 % 11]} if number % 5 else set()
        positive |= {label for lined, label, _ in LINES if lined == name}
        flags = ",".join(str(int(label in positive)) for label in LABELS)
        rows.append(f"{name},{flags},{patient}")
        if name == ROW_WITHOUT_FILE:
            continue
        picture = draw_image(number, HEIGHT, WIDTH)
        path = root / "train" / f"{name}{'.JPG' if repacked else '.jpg'}"
        save(path, picture, colour=name == COLOUR)
        if name == TRUNCATED:
            path.write_bytes(path.read_bytes()[:300])
            continue
        boxes = LINES_AS_BOXES if with_lines and name == LINED else []
        images[name] = FakeImage(picture, positive, patient, boxes)
    save(root / "train" / f"{FILE_WITHOUT_ROW}.jpg", draw_image(900, HEIGHT, WIDTH))
    save(root / "test" / f"{uid(901)}.jpg", draw_image(901, HEIGHT, WIDTH))
    tables = {"train": rows, "sample_submission": [header, f"{uid(901)}{',0' * 11}"]}
    if with_lines:
        tables["train_annotations"] = [
            "StudyInstanceUID,label,data",
            *(f'{name},{label},"{json.dumps(points)}"' for name, label, points in LINES),
        ]
    for name, lines in tables.items():
        text = ("\r\n" if repacked else "\n").join([*lines, ""])
        if repacked:
            (root / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (root / f"{name}.csv").write_text(text)
    (root / "train_tfrecords").mkdir()
    (root / "train_tfrecords" / "00-1881.tfrec").write_bytes(b"\0" * 20)
    return images


LINES = [
    (LINED, "CVC - Normal", [[16, 20], [32, 40], [24, 60]]),
    (LINED, "ETT - Normal", [[30, -4], [30, 8], [33, 16]]),
    (TRUNCATED, "ETT - Normal", [[1, 2], [3, 4]]),
    (ROW_WITHOUT_FILE, "ETT - Normal", [[1, 2], [3, 4]]),
]
LINES_AS_BOXES = [
    ("CVC - Normal", 0.25, 0.25, 0.75, 0.5),
    ("ETT - Normal", 0.0, 30 / 64, 0.2, 33 / 64),
]


def patient_id(number: int) -> str:
    """Nine hexadecimal digits: a number in exponents, one with leading zeros, then plain ones."""
    return ("12e456789", "000000012")[number] if number < 2 else f"0f{number:02}aa001"


def save(path: Path, picture: np.ndarray, colour: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    (image.convert("RGB") if colour else image).save(path, "JPEG", quality=95)

"""VinDr-PCXR in miniature, as PhysioNet packs it.

Quirks: tables beside the folders of images, rad_ID in capitals, misspelled labels, boxes of classes
that are no labels, "No finding" with blank corners, infants' ages in months and days, projection
only in some headers, the four forms of VinDr-CXR's images; an image without pixels, a row without
an image, a image without a row. On request .csv.gz, CRLF, .DICOM and a wrapping folder, or no
boxes.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes.vindr_cxr import as_fractions, image_id, write_image

LAYOUTS = {
    "physionet": {},
    "repacked": {"repacked": True},
    "without boxes": {"with_boxes": False},
}
LABELS = [
    "No finding",
    "Bronchitis",
    "Brocho-pneumonia",
    "Other disease",
    "Bronchiolitis",
    "Situs inversus",
    "Pneumonia",
    "Pleuro-pneumonia",
    "Diagphramatic hernia",
    "Tuberculosis",
    "Congenital emphysema",
    "CPAM",
    "Hyaline membrane disease",
    "Mediastinal tumor",
    "Lung tumor",
]
LOCAL = ["Boot-shaped heart", "Diffuse aveolar opacity"]
AGES = {"006Y": 6.0, "018M": 1.5, "010D": 10 / 365.25, "": np.nan}
NUM_TRAIN, NUM_TEST = 26, 6
NO_PIXELS, ROW_WITHOUT_FILE, FILE_WITHOUT_ROW = map(image_id, (4, 5, 90))


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    part: str
    positive: set[str]
    boxes: list[tuple[str, float, float, float, float]]  # label, y0, x0, y1, x1
    sex: str
    age: float
    projection: str


def write(folder: Path, *, repacked: bool = False, with_boxes: bool = True) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      repacked: as the module says.
      with_boxes: with the two annotation tables.
    """
    root = folder / "vindr-pcxr-1.0.0" if repacked else folder
    labels = {part: [",".join(["image_id", "rad_ID", *LABELS])] for part in ("train", "test")}
    header = "image_id,rad_ID,class_name,x_min,y_min,x_max,y_max"
    boxes = {part: [header] for part in labels}
    images = {}
    for number in [*range(NUM_TRAIN + NUM_TEST), 90]:
        name, part = image_id(number), "train" if number < NUM_TRAIN else "test"
        positive = {LABELS[number % 15], LABELS[1 + number % 7]} if number % 15 else {"No finding"}
        places = [(LOCAL[number % 2], 6.0, 9.0, 48.0, 36.0)] * (number % 15 > 0)
        if name != FILE_WITHOUT_ROW:
            flags = ",".join(str(int(label in positive)) for label in LABELS)
            labels[part].append(f"{name},R{1 + number % 3},{flags}")
            lines = [",".join(map(str, place)) for place in places] or ["No finding,,,,"]
            boxes[part].extend(f"{name},R{1 + number % 3},{line}" for line in lines)
        if name == ROW_WITHOUT_FILE:
            continue
        age, projection = list(AGES)[number % 4], ("AP", "")[number % 2]
        path = root / part / f"{name}{'.DICOM' if repacked else '.dicom'}"
        tags = {"PatientAge": age, "ViewPosition": projection}
        picture = write_image(path, number, pixels=name != NO_PIXELS, **tags)
        if name not in (NO_PIXELS, FILE_WITHOUT_ROW):
            drawn = [as_fractions(*place) for place in places] if with_boxes else []
            sex = "MF"[number % 2]
            images[name] = FakeImage(
                picture, part, positive, drawn, sex, AGES[age], projection or "PA"
            )
    for part in labels:
        tables = {"image_labels": labels[part]} | (
            {"annotations": boxes[part]} if with_boxes else {}
        )
        for table, lines in tables.items():
            path = root / f"{table}_{part}.csv"
            if repacked:
                packed = gzip.compress("\r\n".join([*lines, ""]).encode())
                path.with_name(f"{path.name}.gz").write_bytes(packed)
            else:
                path.write_text("\n".join(lines) + "\n")
    return images

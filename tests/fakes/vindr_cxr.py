"""VinDr-CXR in miniature, as PhysioNet packs it or as Kaggle's VinBigData does.

Quirks: images in 12 bits, raw or JPEG 2000, some MONOCHROME1, with windows, with a rescale; taller
than wide. Three readers a train image, whose rows do not stand together, one row a test image;
"Other diseases" in one table, "Other disease" in the other; a label with a slash; "No finding" with
blank corners, a box beyond the image's edge; an image without pixels, a row without an image, which
has boxes, an image without a row. On request rad_id before image_id, .csv.gz, CRLF, .DICOM and a
wrapping folder. Kaggle: one table of boxes, fewer classes, an image in PNG, unlabelled test images.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import deep, draw_image, stretch

LAYOUTS = {
    "physionet": {},
    "repacked": {"repacked": True},
    "kaggle": {"kaggle": True},
}
LOCAL = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
]
LABELS = [*LOCAL, "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding"]
KAGGLE_LABELS = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "No finding",
]
HEIGHT, WIDTH = 72, 60
NUM_TRAIN, NUM_TEST = 28, 6


def image_id(number: int) -> str:
    return f"{number:02}{'e5a7c9' * 5}"


NO_PIXELS, ROW_WITHOUT_FILE, FILE_WITHOUT_ROW, IN_PNG = map(image_id, (4, 5, 90, 6))


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    part: str
    readers: list[str]
    labels: dict[str, list[float]]
    boxes: list[tuple[str, float, float, float, float]]  # label, y0, x0, y1, x1
    sex: str
    age: float


class Said(NamedTuple):
    """What one reader says of one image: labels, and for the local ones boxes in pixels."""

    image: str
    reader: str
    positive: list[str]
    boxes: list[tuple[str, float, float, float, float]]  # label, x0, y0, x1, y1


def write(folder: Path, *, repacked: bool = False, kaggle: bool = False) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      repacked: as the module says.
      kaggle: VinBigData instead of PhysioNet's folder.
    """
    root = folder / "vindr-cxr" if repacked else folder
    vocabulary = KAGGLE_LABELS if kaggle else LABELS
    said: dict[str, list[Said]] = {"train": [], "test": []}
    images = {}
    for number in [*range(NUM_TRAIN + NUM_TEST), 90]:
        name, part = image_id(number), "train" if number < NUM_TRAIN else "test"
        if name == FILE_WITHOUT_ROW:
            write_image(root / part / f"{name}.dicom", number)
            continue
        readers = readers_of(number) if part == "train" else [""]
        opinions = [opinion(number, reader, vocabulary) for reader in readers]
        said[part].extend(opinions)
        if name == ROW_WITHOUT_FILE:
            continue
        in_png = kaggle and name == IN_PNG
        suffix = ".png" if in_png else ".DICOM" if repacked else ".dicom"
        picture = write_image(root / part / f"{name}{suffix}", number, pixels=name != NO_PIXELS)
        if name == NO_PIXELS or (kaggle and part == "test"):
            continue
        labels = {
            label: [
                float(label in one.positive) if label in vocabulary else np.nan for one in opinions
            ]
            for label in LABELS
        }
        boxes = [] if in_png else [as_fractions(*box) for one in opinions for box in one.boxes]
        names = [one.reader or "consensus" for one in opinions]
        sex, age = ("", np.nan) if in_png else ("MF"[number % 2], 30.0 + number)
        images[name] = FakeImage(picture, part, names, labels, boxes, sex, age)
    if kaggle:
        (root / "train.csv").write_text("\n".join(kaggle_lines(said["train"])) + "\n")
        return images
    for part, opinions in said.items():
        tables = label_lines(opinions, swapped=repacked), box_lines(opinions)
        for table, lines in zip(("image_labels", "annotations"), tables):
            path = root / "annotations" / f"{table}_{part}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            if repacked:
                packed = gzip.compress("\r\n".join([*lines, ""]).encode())
                path.with_name(f"{path.name}.gz").write_bytes(packed)
            else:
                path.write_text("\n".join(lines) + "\n")
    return images


def write_image(path: Path, number: int, pixels: bool = True, **tags: str) -> np.ndarray:
    """Writes image `number` in one of four forms; returns it as displayed, uint8 [h w]."""
    if path.suffix == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_image(number, HEIGHT, WIDTH)).save(path)
        return draw_image(number, HEIGHT, WIDTH)
    stored = deep(number, 100, 3900, HEIGHT, WIDTH)
    tags = {"PatientSex": "MF"[number % 2], "PatientAge": f"{30 + number:03}Y", **tags}
    shown = stored
    if number % 2:  # the window shows 500 to 3000
        tags |= {"WindowCenter": 1750.5, "WindowWidth": 2501, "BurnedInAnnotation": "NO"}
        shown = np.clip(stored, 500, 3000)
    elif number % 4:
        tags |= {"RescaleSlope": 2, "RescaleIntercept": -1000}
    inverted = number % 3 == 0
    write_dicom(
        path,
        stored if pixels else None,
        photometric="MONOCHROME1" if inverted else "MONOCHROME2",
        coding=("raw", "jpeg2000")[number % 5 == 0],
        bits=12,
        patient=f"MRN{number}",
        **tags,
    )
    return 255 - stretch(shown) if inverted else stretch(shown)


def readers_of(number: int) -> list[str]:
    return [f"R{1 + (number + k * 5) % 17}" for k in range(3)]


def opinion(number: int, reader: str, vocabulary: list[str]) -> Said:
    """Readers agree on an image in four, differ on others."""
    findings = vocabulary[:-1]
    seed = number if number % 4 == 0 else number + int(reader[1:] or 0)
    positive = (
        [] if seed % 3 == 0 else sorted({findings[seed % len(findings)], findings[number % 3]})
    )
    boxes = [
        # The first box leaves the image on its right.
        (label, 15.0 + place, 9.0, 45.0 + 20 * place, 36.0 + place)
        for place, label in enumerate(positive)
        if label in LOCAL
    ]
    return Said(image_id(number), reader, positive or ["No finding"], boxes)


def label_lines(opinions: list[Said], swapped: bool) -> list[str]:
    """Rows of image_labels: reader by reader, so that an image's rows do not stand together."""
    with_readers = any(one.reader for one in opinions)
    names = LABELS if with_readers else [name.replace("diseases", "disease") for name in LABELS]
    ids = (["image_id", "rad_id"] if with_readers else ["image_id"])[:: -1 if swapped else 1]
    lines = [",".join([*ids, *names])]
    for one in apart(opinions):
        head = ([one.image, one.reader] if with_readers else [one.image])[:: -1 if swapped else 1]
        lines.append(",".join([*head, *(str(int(name in one.positive)) for name in LABELS)]))
    return lines


def box_lines(opinions: list[Said]) -> list[str]:
    with_readers = any(one.reader for one in opinions)
    lines = [f"image_id,{'rad_id,' * with_readers}class_name,x_min,y_min,x_max,y_max"]
    for one in opinions:
        head = f"{one.image},{f'{one.reader},' * with_readers}"
        lines.extend(f"{head}{','.join(map(str, box))}" for box in one.boxes)
        if one.positive == ["No finding"]:
            lines.append(f"{head}No finding,,,,")
    return lines


def kaggle_lines(opinions: list[Said]) -> list[str]:
    lines = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for one in apart(opinions):
        boxes = [(label, *map(str, corners)) for label, *corners in one.boxes]
        for label, *corners in boxes or [("No finding", "", "", "", "")]:
            number = KAGGLE_LABELS.index(label)
            lines.append(",".join([one.image, label, str(number), one.reader, *corners]))
    return lines


def apart(opinions: list[Said]) -> list[Said]:
    """First every image's first reader, then the second ones and the third."""
    seen: dict[str, int] = {}
    ranks = []
    for one in opinions:
        ranks.append(seen.get(one.image, 0))
        seen[one.image] = ranks[-1] + 1
    return [opinions[i] for i in np.argsort(ranks, kind="stable")]


def as_fractions(label: str, x0: float, y0: float, x1: float, y1: float) -> tuple:
    return label, y0 / HEIGHT, x0 / WIDTH, y1 / HEIGHT, min(x1 / WIDTH, 1.0)

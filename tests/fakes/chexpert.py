"""CheXpert in miniature: the full or small tree, or the folders of Stanford's four zips.

Quirks: Path begins with the release's name whatever the folders are called; blank and -1 cells,
also without decimals; No Finding only 1 or blank in train; sex Unknown, age 0, laterals without
AP/PA, a frontal image with LL; an upper-case suffix, an unreadable image, a row without an image, a
image without a row; CheXlocalize's test images, labelled by image or by study, and its second,
larger copy of valid; a table of other labels and desktop files that nobody reads.
"""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LABELS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion"),
    *("Edema", "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture", "Support Devices"),
)
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)
TRAIN_PATIENTS = (1, 2, 3, 32001, 32002, 64540)
VALID_PATIENTS = (64541, 64542)
TEST_PATIENTS = (64741, 64742)
CORRUPT = "patient00002/study1/view1_frontal"
ROW_WITHOUT_FILE = "patient32001/study2/view1_frontal"
FILE_WITHOUT_ROW = "patient64539/study1/view1_frontal"
STUDY_WITHOUT_IMAGE = "CheXpert-v1.0/test/patient64743/study1"
UPPER_CASE = "patient00003/study1/view1_frontal"
LL = "patient00001/study2/view1_frontal"
AGE_0 = UNKNOWN_SEX = "patient00003/study1/view1_frontal"

LAYOUTS = {
    "small": {},
    "full, wrapped, gzipped": {"release": "CheXpert-v1.0", "wrapped": True, "gz": True},
    "zips": {"release": "CheXpert-v1.0", "zips": True, "test": "studies"},
    "test by image": {"test": "images"},
}


class FakeImage(NamedTuple):
    """What the fake says of one image; labels hold the cells' text."""

    picture: np.ndarray
    labels: dict[str, str]
    split: str
    projection: str
    sex: str
    age: float


def write(
    folder: Path,
    *,
    release: str = "CheXpert-v1.0-small",
    wrapped: bool = False,
    gz: bool = False,
    zips: bool = False,
    test: str = "",
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      release: how Path begins, and the folder's name.
      wrapped: the release's folder lies in another one.
      gz: the tables are gzipped.
      zips: patients lie directly in folders named after the zips.
      test: "images" or "studies": what a row of the test labels is; "" for no test set.
    """
    base = folder / "download" if wrapped else folder
    home = base / (f"{release} batch 1 (validate & csv)" if zips else release)
    images: dict[str, FakeImage] = {}
    for part, patients in (("train", TRAIN_PATIENTS), ("valid", VALID_PATIENTS)):
        rows = [HEADER]
        for seed, image_id in enumerate(_image_ids(patients)):
            patient = int(image_id[7:12])
            if zips and part == "train":
                place = (
                    base / f"{release} batch {2 + patient // 32000} (train {1 + patient // 32000})"
                )
            else:
                place = home / part
            made = _image(image_id, part, seed + patient)
            rows.append(_row(f"{release}/{part}/{image_id}.jpg", image_id, made))
            if _save(place, image_id, made.picture):
                images[image_id] = made
        _write_table(home / f"{part}.csv", rows, gz)
    _save(place, FILE_WITHOUT_ROW, draw_image(0, 64, 64))
    (home / "train_cheXbert.csv").write_text("Path,Edema\nx,1\n")
    (home / ".DS_Store").write_bytes(b"\0")
    if test:
        images |= _write_test(base / "CheXpert", by_study=test == "studies")
        for image_id, made in images.items():
            if made.split == "validation":
                _save(base / "CheXpert" / "val", image_id, made.picture.repeat(2, 0).repeat(2, 1))
    return images


def _image_ids(patients: tuple[int, ...]) -> list[str]:
    names = ("study1/view1_frontal", "study1/view2_lateral", "study2/view1_frontal")
    return [f"patient{patient:05}/{name}" for patient in patients for name in names]


def _image(image_id: str, part: str, seed: int) -> FakeImage:
    finding = LABELS[1 + seed % 13]
    cells = dict.fromkeys(LABELS, "" if part == "train" else "0.0")
    cells[finding] = "1.0"
    if part == "train":
        cells[LABELS[1 + (seed + 3) % 13]] = "-1.0"
        cells[LABELS[1 + (seed + 5) % 13]] = "0.0"
        if seed % 4 == 0:
            cells = {**dict.fromkeys(LABELS, ""), "No Finding": "1", "Support Devices": "-1"}
    frontal = image_id.endswith("frontal")
    projection = ("AP", "PA")[seed % 2] if image_id != LL else "FRONTAL"
    return FakeImage(
        picture=draw_image(seed, 64, 72),
        labels=cells,
        split={"train": "train", "valid": "validation", "test": "test"}[part],
        projection=projection if frontal else "LATERAL",
        sex="" if image_id == UNKNOWN_SEX else "FM"[seed % 2],
        age=float("nan") if image_id == AGE_0 else 20.0 + seed % 71,
    )


def _row(path: str, image_id: str, made: FakeImage) -> tuple[str, ...]:
    frontal = made.projection != "LATERAL"
    projection = "LL" if image_id == LL else made.projection
    return (
        path,
        {"F": "Female", "M": "Male", "": "Unknown"}[made.sex],
        "0" if image_id == AGE_0 else f"{made.age:.0f}",
        "Frontal" if frontal else "Lateral",
        projection if frontal else "",
        *made.labels.values(),
    )


def _write_test(home: Path, by_study: bool) -> dict[str, FakeImage]:
    images, rows = {}, []
    for patient in TEST_PATIENTS:
        for name in ("view1_frontal", "view2_lateral"):
            image_id = f"patient{patient:05}/study1/{name}"
            # A study's images share their labels.
            made = _image(image_id, "test", patient)
            made = made._replace(
                picture=draw_image(patient + len(images), 64, 72),
                projection="LATERAL" if "lateral" in name else "FRONTAL",
                sex="",
                age=float("nan"),
            )
            images[image_id] = made
            _save(home / "test", image_id, made.picture)
            path = image_id.rpartition("/")[0] if by_study else f"{image_id}.jpg"
            cells = [made.labels[label][0] for label in LABELS]
            rows.append([f"CheXpert-v1.0/test/{path}", *cells])
    if by_study:
        rows = [*rows[::2], [STUDY_WITHOUT_IMAGE, *"0" * len(LABELS)]]
    # Some of CheXlocalize's files swap two labels.
    columns = ["Study" if by_study else "Path", *LABELS]
    swap = [*range(4), 5, 4, *range(6, len(columns))]
    name = "groundtruth.csv" if by_study else "test_labels.csv"
    _write_table(home / name, [[row[i] for i in swap] for row in (columns, *rows)], gz=False)
    return images


def _save(place: Path, image_id: str, picture: np.ndarray) -> bool:
    """Writes the image; False if it cannot be read, or if there is none."""
    if image_id == ROW_WITHOUT_FILE:
        return False
    path = place / f"{image_id}.{'JPG' if image_id == UPPER_CASE else 'jpg'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if image_id == CORRUPT:
        path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
        return False
    Image.fromarray(picture).save(path, "JPEG", quality=95)
    return True


def _write_table(path: Path, rows: list, gz: bool) -> None:
    text = "\n".join(",".join(row) for row in rows) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if gz:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)

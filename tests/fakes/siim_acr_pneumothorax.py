"""SIIM-ACR Pneumothorax in miniature: the competition's DICOM files, or the copy in PNG.

Quirks of the DICOM files: a header with a space before its second name, " -1" and "-1", relative
run lengths down the columns, several rows for an image, JPEG Baseline, UUIDs as patients, ages
without Y, one of them impossible, folders named by study and series; an image without pixels, one
without a patient, a row without an image, an image without a row. On request the later table's
name, CR line ends, .DCM and a wrapping folder.

Quirks of the PNG copy: part and label in the image's name, two lesions in one mask, a mask that is
broken, an image without a mask, a broken image, a row without an image, an image without a row; on
request no tables at all.
"""

import uuid
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import draw_image

LAYOUTS = {
    "dicom": {},
    "stage 2": {"stage_2": True},
    "png": {"png": True},
    "png without tables": {"png": True, "tables": False},
}
SIDE = 1024  # of the masks; the images here are smaller
NUM_IMAGES = 30
NO_PIXELS, NO_PATIENT, IMPOSSIBLE_AGE, ROW_WITHOUT_FILE, FILE_WITHOUT_ROW = 5, 8, 9, 11, 90
HELD_OUT = 91  # an image of dicom-images-test that the table does not know: no loss
BROKEN_MASK, NO_MASK = 3, 6  # PNG

# y0, x0, y1, x1 in pixels of the lesions of image n: LESIONS[n % 3].
LESIONS = (
    [(100, 200, 300, 456)],
    [],
    [(0, 0, 64, 1), (512, 768, 1024, 1024)],
)


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    boxes: list[tuple[float, float, float, float]]  # y0, x0, y1, x1 as fractions
    positive: bool
    part: str = ""  # PNG: "train" or "test"
    patient: str = ""  # DICOM: "" if unknown
    sex: str = ""
    age: float = float("nan")
    projection: str = ""


def uid(number: int, kind: int = 4) -> str:
    """A UID: kind is 2 for a study, 3 for a series, 4 for an image."""
    return f"1.2.276.0.7230010.3.1.{kind}.8323329.{9000 + number}.1517875201.{850000 + number}"


def write(
    folder: Path, *, png: bool = False, stage_2: bool = False, tables: bool = True
) -> dict[str, FakeImage]:
    """Writes a raw layout into `folder`; returns the readable images by image id.

    Args:
      png: the PNG copy.
      stage_2: stage_2_train.csv with CR line ends, .DCM, in a wrapping folder.
      tables: whether the PNG copy has its two CSV files.
    """
    if png:
        return _write_png(folder / "siim-acr-pneumothorax", tables)
    return _write_dicom(folder / "siim" if stage_2 else folder, stage_2)


def _write_dicom(root: Path, stage_2: bool) -> dict[str, FakeImage]:
    lines = ["ImageId,EncodedPixels" if stage_2 else "ImageId, EncodedPixels"]
    images = {}
    for number in [*range(NUM_IMAGES), FILE_WITHOUT_ROW, HELD_OUT]:
        lesions = LESIONS[number % 3]
        if number < NUM_IMAGES:
            rows = [encode(lesion) for lesion in lesions] or [(" -1", "-1")[number % 2]]
            lines.extend(f"{uid(number)},{row}" for row in rows)
        if number == ROW_WITHOUT_FILE:
            continue
        patient = "" if number == NO_PATIENT else str(uuid.UUID(int=number // 2))
        picture = draw_image(number, 64, 64)
        tested = number >= NUM_IMAGES - 4 and number != FILE_WITHOUT_ROW
        part = "dicom-images-test" if tested else "dicom-images-train"
        name = f"{uid(number)}.{'DCM' if stage_2 else 'dcm'}"
        _write_quietly(
            root / part / uid(number, 2) / uid(number, 3) / name,
            None if number == NO_PIXELS else picture,
            coding="jpeg",
            patient=patient,
            Modality="CR",
            SeriesDescription="view: " + ("PA", "AP")[number % 2],
            ViewPosition=("PA", "AP")[number % 2],
            PatientSex="FM"[number % 2],
            PatientAge="155" if number == IMPOSSIBLE_AGE else str(20 + number),
        )
        if number not in (NO_PIXELS, FILE_WITHOUT_ROW, HELD_OUT):
            images[uid(number)] = FakeImage(
                picture,
                fractions(lesions),
                positive=bool(lesions),
                patient=patient,
                sex="FM"[number % 2],
                age=float("nan") if number == IMPOSSIBLE_AGE else 20.0 + number,
                projection=("PA", "AP")[number % 2],
            )
    name, end = ("stage_2_train.csv", "\r") if stage_2 else ("train-rle.csv", "\n")
    (root / name).write_bytes(end.join([*lines, ""]).encode())
    return images


def _write_quietly(*args, **tags) -> None:
    """write_dicom without pydicom's warning of an age that lacks its Y."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_dicom(*args, **tags)


def _write_png(root: Path, tables: bool) -> dict[str, FakeImage]:
    header = "new_filename,ImageId,has_pneumo"
    lines, images = {"train": [header], "test": [header]}, {}
    for folder in ("png_images", "png_masks"):
        (root / folder).mkdir(parents=True)
    for number in [*range(NUM_IMAGES), FILE_WITHOUT_ROW]:
        lesions = LESIONS[number % 3]
        part = "test" if number >= NUM_IMAGES - 6 else "train"
        name = f"{number}_{part}_{int(bool(lesions))}_.png"
        if number != FILE_WITHOUT_ROW:
            lines[part].append(f"{name},{uid(number)},{int(bool(lesions))}")
        if number == ROW_WITHOUT_FILE:
            continue
        picture = draw_image(number, 64, 64)
        Image.fromarray(picture).save(root / "png_images" / name)
        if number != NO_MASK:
            mask = np.zeros((SIDE, SIDE), np.uint8)
            for y0, x0, y1, x1 in lesions:
                mask[y0:y1, x0:x1] = 255
            Image.fromarray(mask).save(root / "png_masks" / name, compress_level=1)
        if number == BROKEN_MASK:
            (root / "png_masks" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
        if number == NO_PIXELS:
            (root / "png_images" / name).write_bytes(b"")
            continue
        places = [] if number in (BROKEN_MASK, NO_MASK) else fractions(lesions)
        if number != FILE_WITHOUT_ROW or not tables:
            images[f"{number}_{part}"] = FakeImage(picture, places, bool(lesions), part)
    if tables:
        for part, rows in lines.items():
            (root / f"stage_1_{part}_images.csv").write_text("\n".join(rows) + "\n")
    return images


def encode(lesion: tuple[int, int, int, int]) -> str:
    """A rectangle's run lengths: skipped since the last run and set, down the columns."""
    y0, x0, y1, x1 = lesion
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    columns = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(columns[1:] != columns[:-1])
    return " ".join(map(str, np.diff(edges, prepend=0)))


def fractions(lesions: list) -> list[tuple[float, float, float, float]]:
    return [tuple(corner / SIDE for corner in lesion) for lesion in lesions]

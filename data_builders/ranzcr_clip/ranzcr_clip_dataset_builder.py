"""RANZCR CLiP (Tang et al. 2021): 30,083 images with the places of tubes and lines."""

import json
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from PIL import Image
from PIL.ExifTags import Base

from data_builders.base import boxes, builder, csv_table, folders, parallel, splits
from data_builders.base.boxes import BoxRow
from data_builders.base.records import Box, BuildError, Record, Skipped

LABELS = (
    *("ETT - Abnormal", "ETT - Borderline", "ETT - Normal"),
    *("NGT - Abnormal", "NGT - Borderline", "NGT - Incompletely Imaged", "NGT - Normal"),
    *("CVC - Abnormal", "CVC - Borderline", "CVC - Normal", "Swan Ganz Catheter Present"),
)
LINES = "train_annotations.csv"

_PATIENT = re.compile(r"[0-9a-f]{9}", re.IGNORECASE)
# What Pillow raises on broken headers, beyond OSError.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, struct.error)


class Builder(builder.CxrBuilder):
    """Kaggle's folder; only its train part has labels, and is split here by patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Accept the rules of Kaggle's ranzcr-clip-catheter-line-classification, download it and "
        "unpack train.csv, train_annotations.csv (optional) and train/*.jpg into manual_dir."
    )
    HOMEPAGE: ClassVar = "https://www.kaggle.com/c/ranzcr-clip-catheter-line-classification"
    LABEL_NAMES: ClassVar = LABELS
    LICENCE: ClassVar = "the rules of Kaggle's competition"
    SPLIT_RULE: ClassVar = (
        "70 % train, 10 % validation, 20 % test by a fixed hash of the patient; the owner's test "
        "images have no labels and are not part."
    )
    HAS_BOXES: ClassVar = True
    OWNER_COUNTS: ClassVar = {"images": 30_083}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        root = self.root(manual_dir, "train.csv")
        table = csv_table.Table(folders.require(root, "train.csv"))
        images = folders.by_stem(root / "train", (".jpg", ".jpeg"))
        drawn = read_lines(root)
        placed = place(drawn, images, self.settings.num_workers)
        listed: dict[str, Mapping[str, float]] = {}
        for where, fields in table.select(("StudyInstanceUID", "PatientID", *LABELS)):
            image, patient, *values = fields
            # Spreadsheets read 12e456789 as a number and 000123456 without its zeros, and so join
            # patients.
            if not _PATIENT.fullmatch(patient):
                raise BuildError(
                    f"{where}: PatientID has not nine hexadecimal digits. A spreadsheet may have "
                    "changed the file; restore the owner's."
                )
            listed[image] = csv_table.flags(LABELS, values, where)
            yield Record(
                split=splits.by_patient(patient),
                image_id=image,
                patient_id=patient,
                image=images.get(image, root / "train" / f"{image}.jpg"),
                labels=listed[image],
                study_id=image,
                boxes=placed.get(image, ()),
                row=where,
            )
        yield from folders.not_listed(images, listed, root, f"no row in {table.path.name}")

        def has_label(row: BoxRow) -> bool | None:
            return listed[row.image][row.label] == 1 if row.image in listed else None

        yield from boxes.check_rows(drawn, has_label, LINES)


class Frame(NamedTuple):
    """The stored form of a picture: height and width, and the EXIF orientation that shows it."""

    size: tuple[int, int]
    orientation: int


def read_lines(root: Path) -> list[BoxRow]:
    """Returns the corners around each line of the annotations; BuildError for an unknown label."""
    path = folders.optional(root, LINES)
    if path is None:
        return []
    found = []
    columns = ("StudyInstanceUID", "label", "data")
    for where, (image, label, data) in csv_table.Table(path).select(columns):
        if label not in LABELS:
            raise BuildError(f"{where}: the line's label is unknown.")
        found.append(BoxRow(image, label, corners(data, where), where))
    return found


def place(
    lines: list[BoxRow], images: Mapping[str, Path], num_workers: int | None
) -> dict[str, tuple[Box, ...]]:
    """Returns image -> the boxes around its lines, for images that are there.

    Args:
      images: image -> its JPEG, whose header gives the size that the lines' pixels refer to.

    Raises BuildError: a line with a point that is not a number, or lines that reach far beyond
    their images, which are a smaller copy then.
    """
    by_image = defaultdict(list)
    for line in lines:
        by_image[line.image].append(line)
    lined = [(image, images[image]) for image in by_image if image in images]
    found = dict(parallel.parallel_map(read_frame, lined, num_workers))
    frames = {image: frame for image, frame in found.items() if frame is not None}
    there = [line for line in lines if line.image in frames]
    beyond = [line for line in there if is_beyond(line.corners, frames[line.image].size)]
    if len(beyond) > boxes.MAX_CONTRADICTING * len(there):
        raise BuildError(
            f"{len(beyond):,} of the {len(there):,} lines of {LINES} reach beyond their images; "
            f"the first is {beyond[0].where}. In a copy of smaller images boxes would be wrong: "
            f"take the owner's images, or remove {LINES}."
        )
    return {
        image: tuple(as_shown(line, frame) for line in by_image[image])
        for image, frame in frames.items()
    }


def is_beyond(corners: boxes.Corners, size: tuple[int, int]) -> bool:
    """Returns whether corners lie more than a twentieth of height or width outside of an image."""
    return corners[2] > 1.05 * size[1] or corners[3] > 1.05 * size[0]


def corners(data: str, where: str) -> tuple[float, float, float, float]:
    """Returns x0, y0, x1, y1 of a line "[[x, y], [x, y], …]"; BuildError for other text."""
    try:
        points = [(float(x), float(y)) for x, y in json.loads(data)]
    except (TypeError, ValueError, RecursionError):  # which quote
        points = []
    if not points:
        raise BuildError(f"{where}: data is not a list of points [[x, y], …].")
    xs, ys = zip(*points)
    return min(xs), min(ys), max(xs), max(ys)


def read_frame(path: Path) -> Frame | None:
    """Reads size and orientation from a picture's header; None if it has none that can be read."""
    try:
        with Image.open(path) as image:
            return Frame((image.height, image.width), image.getexif().get(Base.Orientation, 1))
    except (*_BROKEN, Image.DecompressionBombError):
        return None


def as_shown(line: BoxRow, frame: Frame) -> Box:
    """Returns the box around a line, given in stored pixels, on the image as it is shown."""
    stored = boxes.from_pixels(line.label, line.corners, frame.size, line.where)
    ys, xs = (stored.y0, stored.y1), (stored.x0, stored.x1)
    if frame.orientation in (2, 3, 7, 8):
        xs = 1 - xs[1], 1 - xs[0]
    if frame.orientation in (3, 4, 6, 7):
        ys = 1 - ys[1], 1 - ys[0]
    if frame.orientation in (5, 6, 7, 8):
        ys, xs = xs, ys
    return Box(line.label, y0=ys[0], x0=xs[0], y1=ys[1], x1=xs[1])

"""REFLACX in miniature, on the fake of MIMIC-CXR-JPG.

Quirks: five readings of an image in phases 1 and 2, one in phase 3, in rows that do not lie
together; phases that ask for different labels; certainties as integers or as 3.0; yes or no as
True/False; CRLF; free text with commas in Other; paths that end in .dcm and are not ours; an
ellipse beyond the image, one with two labels, one that bears only Other, a reading without
ellipses, one whose eye tracking was discarded, one without the ellipses' file; an image that MIMIC
does not have.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes import mimic_cxr

FIRST = (
    *("Airway wall thickening", "Atelectasis", "Consolidation", "Emphysema"),
    *("Enlarged cardiac silhouette", "Fibrosis", "Fracture", "Groundglass opacity", "Mass"),
    *("Nodule", "Other", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary edema", "Quality issue", "Support devices", "Wide mediastinum"),
)
LATER = (
    *("Abnormal mediastinal contour", "Acute fracture", "Atelectasis", "Consolidation"),
    *("Enlarged cardiac silhouette", "Enlarged hilum", "Groundglass opacity", "Hiatal hernia"),
    *("High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass", "Other"),
    *("Pleural abnormality", "Pneumothorax", "Pulmonary edema", "Support devices"),
)
ASKED = {1: FIRST, 2: LATER, 3: LATER}
HEADER = (
    *("id", "split", "eye_tracking_data_discarded", "image", "dicom_id", "subject_id"),
    *("image_size_x", "image_size_y"),
)
YES_NO = ("Quality issue", "Support devices")
NUM_IMAGES = {1: 2, 2: 1, 3: 9}
READERS = {1: 5, 2: 5, 3: 1}
UNKNOWN_IMAGE = "ffffffff-00000000-00000000-00000000-00000000"
# Pixels of an image 72 wide and 64 high: corners, what the ellipse bears, what box it becomes.
ELLIPSES = (
    ((18.0, 16.0, 36.0, 48.0), ("Atelectasis",), (0.25, 0.25, 0.75, 0.5)),
    ((-9.5, 32.0, 54.0, 70.25), ("Consolidation", "Pneumothorax"), (0.5, 0.0, 1.0, 0.75)),
    ((1.0, 1.0, 9.0, 9.0), ("Other",), None),
)

LAYOUTS = {
    "apart": {},
    "phase 3 only, together": {"phases": (3,), "mimic_name": "raw/mimic"},
    "phases 1 and 2, floats": {"phases": (1, 2), "floats": True},
}


class FakeImage(NamedTuple):
    """What the fakes say of one image.

    Attributes:
      readings: reading's id -> label -> value, for the labels its phase asks.
      boxes: label and y0, x0, y1, x1, of all readings.
    """

    image: mimic_cxr.FakeImage
    readings: dict[str, dict[str, float]]
    boxes: list[tuple[str, tuple[float, float, float, float]]]

    @property
    def picture(self) -> np.ndarray:
        """MIMIC's."""
        return self.image.picture


def write(
    folder: Path,
    *,
    phases: tuple[int, ...] = (1, 2, 3),
    mimic_name: str = "mimic",
    floats: bool = False,
) -> dict[str, FakeImage]:
    """Writes `folder`/raw/main_data and MIMIC into `folder`/`mimic_name`.

    Args:
      phases: those whose readings are there.
      floats: certainties and marks of ellipses are written as 3.0 and 1.0.

    Returns:
      The readable images by dicom_id.
    """
    mimic = mimic_cxr.write(folder / mimic_name)
    frontal = sorted(name for name, image in mimic.items() if image.projection in ("AP", "PA"))
    # From both ends: all of MIMIC's splits are wanted.
    waiting = [*frontal[:6], *frontal[:5:-1]]
    root, images, number = folder / "raw" / "main_data", {}, 0
    for phase in ASKED:
        names, waiting = waiting[: NUM_IMAGES[phase]], waiting[NUM_IMAGES[phase] :]
        if phase not in phases:
            continue
        rows = [(*HEADER, *ASKED[phase])]
        # Reader by reader, so that an image's rows do not lie together.
        for reader in range(READERS[phase]):
            for place, dicom_id in enumerate(names):
                number += 1
                reading_id = _reading_id(phase, place, reader, number)
                made = images.setdefault(dicom_id, FakeImage(mimic[dicom_id], {}, []))
                made.readings[reading_id], cells = _labels(phase, number, floats)
                rows.append((*_head(reading_id, dicom_id, made.image, number), *cells))
                made.boxes.extend(_write_folder(root / reading_id, phase, number, floats))
        if phase == phases[-1]:
            stranger = next(iter(mimic.values()))._replace(subject="19999999")
            rows.append((*_head("P300R999999", UNKNOWN_IMAGE, stranger, 1), *cells))
        _write(root / f"metadata_phase_{phase}.csv", rows)
    return images


def _reading_id(phase: int, place: int, reader: int, number: int) -> str:
    # Numbers run against the order of the rows.
    trial = "00" if phase == 3 else f"{place:02}"
    return f"P{phase}{trial}R{900000 - 7 * number:06}" if phase < 3 else f"P300R{number:06}"


def _head(
    reading_id: str, dicom_id: str, image: mimic_cxr.FakeImage, number: int
) -> tuple[str, ...]:
    height, width = mimic_cxr.SHAPE
    return (
        reading_id,
        {"validation": "validate"}.get(image.split, image.split),
        str(number % 5 == 3),
        f"physionet.org/files/mimic-cxr/2.0.0/files/p{image.subject[:2]}/p{image.subject}/"
        f"s{image.study}/{dicom_id}.dcm",
        dicom_id,
        image.subject,
        str(width),
        str(height),
    )


def _labels(phase: int, number: int, floats: bool) -> tuple[dict[str, float], list[str]]:
    """The expected values and the cells."""
    values, cells = {}, []
    for place, name in enumerate(ASKED[phase]):
        if name == "Other":
            cells.append('"azygos fissure, calcified|hernia"' if number % 2 else "")
        elif name in YES_NO:
            values[name] = 5.0 * (number % 2)
            cells.append(str(bool(number % 2)))
        else:
            values[name] = float((number + place) % 6)
            cells.append(str(values[name]) if floats else f"{values[name]:.0f}")
    return values, cells


def _write_folder(folder: Path, phase: int, number: int, floats: bool) -> list:
    """The reading's own files; returns its boxes."""
    labels, boxes = ASKED[phase], []
    rows = [("xmin", "ymin", "xmax", "ymax", "certainty", *labels)]
    for corners, bears, place in ELLIPSES[: number % 4]:
        marks = [float(n in bears) if floats else n in bears for n in labels]
        rows.append((*corners, 3, *marks))
        boxes += [(name, place) for name in bears if place]
    folder.mkdir(parents=True)
    if number % 8:  # some of those without an ellipse have no file
        _write(folder / "anomaly_location_ellipses.csv", rows)
    _write(folder / "chest_bounding_box.csv", [HEADER[:4], (1, 1, 60, 60)])
    if number % 5 != 3:
        _write(folder / "fixations.csv", [("timestamp_start_fixation",), (0.1,)])
    return boxes


def _write(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(",".join(map(str, row)) + "\r\n" for row in rows).encode())

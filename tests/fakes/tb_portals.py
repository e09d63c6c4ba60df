"""TB Portals in miniature: one release, uncompressed 12-bit DICOM.

Quirks: UTF-8 with a byte order mark, names with spaces or underscores, some 200 other columns, a
patient with two conditions, resistance unknown in several words, an outlier, an angiogram,
MONOCHROME1; an image cut off, one without a row, a second file of a listed series, a row without a
image, a row whose condition is in no case; a manifest and annotations beside the table of images.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import draw_image

LAYOUTS = {
    "August 2023": {},
    "parts of 2025": {"release": "March_2025", "parts": True},
    "spaces in names, classes in the table of images": {"spaces": True, "merged": True},
}
CLASSES = ("Sensitive", "Mono DR", "MDR non XDR", "XDR", "Pre-XDR", "Poly DR", "", "Not specified")
NUM_PATIENTS = 24
CUT_OFF, ABSENT, ANGIOGRAM, OUTLIER, NO_CASE, TWICE = 3, 4, 5, 6, 7, 8


class FakeImage(NamedTuple):
    """What the fake says of one image; resistance "" where nothing is known."""

    picture: np.ndarray
    resistance: str
    patient: str
    study: str
    projection: str
    sex: str
    age: float


def key(number: int, condition: int = 0) -> str:
    """The image's path without bucket and suffix."""
    return f"{patient_id(number)}/1.2.{number}/1.2.{number}.{condition}/1.2.{number}.{condition}.9"


def patient_id(number: int) -> str:
    return f"{number:08x}-221f-4802-9fa2-27a330b22b34"


WITHOUT_ROW = f"{patient_id(99)}/1.2.99/1.2.99.0/1.2.99.0.9"


def write(
    folder: Path,
    *,
    release: str = "August_2023",
    parts: bool = False,
    spaces: bool = False,
    merged: bool = False,
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      release: month and year in the tables' names.
      parts: images from numbered archives, without GlobalBucket/.
      spaces: in the tables' names, instead of underscores.
      merged: type_of_resistance stands in the table of images, and there are no cases.
    """
    images, rows, cases = {}, [], []
    for number in range(NUM_PATIENTS):
        for condition in range(2 if number == TWICE else 1):
            resistance = CLASSES[(number + 3 * condition) % len(CLASSES)]
            sex, age = ("Male", "Female")[number % 2], "" if number == 9 else 20 + number
            case = {
                "patient_id": patient_id(number),
                "condition_id": f"c{number}-{condition}",
                "type_of_resistance": resistance,
                "gender": sex,
                "age_of_onset": age,
                **{f"other_{i}": i for i in range(200)},
            }
            image_id = key(number, condition)
            bucket = "" if parts else "GlobalBucket/"
            row = {
                "imagingstudy_id": f"study-{number}-{condition}",
                "patient_id": patient_id(number),
                "condition_id": "c-unknown" if number == NO_CASE else case["condition_id"],
                "country": "Moldova",
                "series_instance_content_url": f"{bucket}{image_id}.dcm",
                "series_modality_cd": "XA"
                if number == ANGIOGRAM
                else ("CR", "DX", "XC")[number % 3],
                "cxr_outlier": "outlier" if number == OUTLIER else "inlier",
            }
            rows.append({**row, **case, "condition_id": row["condition_id"]} if merged else row)
            cases.append(case)
            if number == ABSENT:
                continue
            picture = draw_image(10 * number + condition, 64, 60)
            place = f"part{number % 2 + 1}" if parts else "GlobalBucket"
            path = folder / place / f"{image_id}.dcm"
            projection = ("PA", "AP", "LL", "")[number % 4]
            _save(path, picture, projection, inverted=number % 5 == 2)
            if number == CUT_OFF:
                path.write_bytes(path.read_bytes()[:-2000])
            elif number != ANGIOGRAM:
                known = number != OUTLIER and (merged or number != NO_CASE)
                images[image_id] = FakeImage(
                    picture=picture,
                    resistance=resistance if known and resistance != "Not specified" else "",
                    patient=patient_id(number),
                    study=row["imagingstudy_id"],
                    projection="OUTLIER"
                    if number == OUTLIER
                    else {"LL": "LATERAL"}.get(projection, projection),
                    sex="" if number == NO_CASE and not merged else sex[0],
                    age=np.nan if age == "" or (number == NO_CASE and not merged) else age,
                )
    bucket = folder / ("part1" if parts else "GlobalBucket")
    _save(bucket / f"{WITHOUT_ROW}.dcm", draw_image(0, 64, 60))
    _save(bucket / f"{key(2).rpartition('/')[0]}/1.2.2.0.10.dcm", draw_image(1, 64, 60))
    names = {"CXRs": rows, "CXR Manual Annotations": [{"imagingstudy_id": "s", "sextant": "None"}]}
    if not merged:
        names["Patient Cases"] = cases
    names[f"CXRs {release} manifest"] = [{"file": row[URL]} for row in rows]
    for name, listed in names.items():
        full = f"TB Portals {name} {release}.csv".replace("_", " ")
        _write_csv(folder / (full if spaces else full.replace(" ", "_")), listed)
    return images


URL = "series_instance_content_url"


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _save(path: Path, picture: np.ndarray, projection: str = "", inverted: bool = False) -> None:
    stored = np.round((255 - picture if inverted else picture) / 255 * 4095).astype(np.uint16)
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    write_dicom(path, stored, photometric=photometric, bits=12, ViewPosition=projection)

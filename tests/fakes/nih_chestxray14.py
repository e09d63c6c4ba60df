"""NIH ChestX-ray14 in miniature, as NIH or Kaggle pack it.

Quirks: commas inside unquoted header names, on request a trailing comma, the older file name with
ages like "058Y", several image folders instead of one; an RGBA image, an impossible age,
"Infiltrate" in a box list whose header is wider than its rows, an unreadable image, a row without a
image, an image without a row.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LAYOUTS = {
    "nih": {},
    "kaggle": {"kaggle": True, "trailing_comma": True},
    "old": {"old": True},
}
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FINDINGS = ("No Finding", "Cardiomegaly|Emphysema", "Infiltration", "Pleural_Thickening", "Hernia")
NUM_PATIENTS = 30
IMAGES_EACH = 2
FIRST_TEST_PATIENT = 25
BOXED = "00000001_000.png"
RGBA = "00000003_000.png"
CORRUPT = "00000004_000.png"
ROW_WITHOUT_FILE = "00000005_001.png"
FILE_WITHOUT_ROW = "00000099_000.png"
IMPOSSIBLE_AGE = "00000006_000.png"


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    findings: str
    patient: int
    test: bool


def write(
    folder: Path, *, kaggle: bool = False, old: bool = False, trailing_comma: bool = False
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      kaggle: images_001/images/ and so on instead of images/.
      old: Data_Entry_2017.csv with ages like "058Y".
      trailing_comma: each line of the CSV ends with a comma.
    """
    end = "," if trailing_comma else ""
    lines, lists, images = [HEADER + end], {"train_val": [], "test": []}, {}
    for patient in range(1, NUM_PATIENTS + 1):
        test = patient >= FIRST_TEST_PATIENT
        for follow_up in range(IMAGES_EACH):
            name = f"{patient:08}_{follow_up:03}.png"
            findings = FINDINGS[(patient + follow_up) % len(FINDINGS)]
            if name == BOXED:
                findings = "Infiltration|Mass"
            age = 411 if name == IMPOSSIBLE_AGE else 20 + patient
            sex, projection = "MF"[patient % 2], ("PA", "AP")[follow_up]
            age_text = f"{age:03}Y" if old else age
            lines.append(
                f"{name},{findings},{follow_up},{patient},{age_text},{sex},{projection},"
                f"2894,2729,0.14300000000000002,0.14300000000000002{end}"
            )
            lists["test" if test else "train_val"].append(name)
            if name == ROW_WITHOUT_FILE:
                continue
            part = f"images_{1 + patient % 2:03}/images" if kaggle else "images"
            path = folder / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = draw_image(100 * patient + follow_up, 64, 64)
            _save(path, picture, alpha=name == RGBA)
            if name == CORRUPT:
                path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
                continue
            images[name.removesuffix(".png")] = FakeImage(picture, findings, patient, test)
    _save(folder / part / FILE_WITHOUT_ROW, draw_image(0, 64, 64))
    table = "Data_Entry_2017.csv" if old else "Data_Entry_2017_v2020.csv"
    (folder / table).write_text("\n".join(lines) + "\n")
    for name, names in lists.items():
        (folder / f"{name}_list.txt").write_text("\n".join(names))
    (folder / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"{BOXED},Infiltrate,256.0,128.0,512.0,64.0\n"
        f"{BOXED},Mass,0.0,0.0,102.4,204.8\n"
    )
    (folder / ".DS_Store").write_bytes(b"\0")
    return images


def _save(path: Path, picture: np.ndarray, alpha: bool = False) -> None:
    image = Image.fromarray(picture)
    if alpha:
        # Transparent on the left: a reader that multiplies alpha in paints that side black.
        mask = np.where(np.arange(picture.shape[1]) < picture.shape[1] // 2, 0, 255)
        image = image.convert("RGBA")
        image.putalpha(Image.fromarray(np.broadcast_to(mask, picture.shape).astype(np.uint8)))
    image.save(path)

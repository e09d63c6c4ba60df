"""NLM's Shenzhen and Montgomery sets in miniature.

A mask of one lung alone.

Quirks: RGB and palette PNGs, masks with their images' names, readings with and without commas, with
one line only, in months, without an age, with a wrong diagnosis, not in UTF-8 and absent; numbers
with gaps; an image with another name, an unreadable image, a reading without an image.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.fakes.pictures import draw_image

LAYOUTS = {
    "both": {},
    "the current site's folders": {"current": True},
    "Shenzhen alone": {"sets": ("CHNCXR",)},
    "Montgomery alone": {"sets": ("MCUCXR",)},
}
NAN = float("nan")
# Name -> the reading (None: no file), sex and age.
SHENZHEN = {
    "CHNCXR_0001_0": (b"male 45yrs\nnormal", "M", 45),
    "CHNCXR_0002_0": (b"female , 26yrs\r\n\r\nnormal\r\n", "F", 26),
    "CHNCXR_0003_0": (b"Male,8months\nnormal", "M", 8 / 12),
    "CHNCXR_0004_0": (b"female\nnormal 12", "F", NAN),
    "CHNCXR_0005_0": (None, "", NAN),
    "CHNCXR_0006_0": (b"", "", NAN),
    "CHNCXR_0327_1": (b"male36yrs", "M", 36),
    "CHNCXR_0328_1": (b"female 30yrs\nSTB\xa3\xac male physician, 99 days", "F", 30),
    "CHNCXR_0329_1": (b"male 999yrs\nnormal", "M", NAN),
    "CHNCXR_0330_1": (b"male 33yrs\nbilateral PTB", "M", 33),
}
MONTGOMERY = {
    "MCUCXR_0001_0": (b"Patient's Sex: F\r\nPatient's Age: 027Y\r\nnormal\r\n", "F", 27),
    "MCUCXR_0002_0": (b"Patient's Sex: M\nPatient's Age: 006M\nnormal", "M", 0.5),
    "MCUCXR_0104_1": (b"Patient's Sex: O\nPatient's Age: \nfemale, 12 old scars", "", NAN),
    "MCUCXR_0113_1": (b"Patient's Sex: M\nPatient's Age: 045Y", "M", 45),
}
MORE_SHENZHEN = {f"CHNCXR_{n:04}_1": (b"male 50yrs\nSTB", "M", 50) for n in range(600, 616)}
MORE_MONTGOMERY = {
    f"MCUCXR_{n:04}_0": (b"Patient's Sex: F\nPatient's Age: 050Y\nnormal", "F", 50)
    for n in range(20, 56, 2)
}
SETS = {
    "CHNCXR": SHENZHEN | MORE_SHENZHEN,
    "MCUCXR": MONTGOMERY | MORE_MONTGOMERY,
}
PALETTE = "CHNCXR_0002_0"
ONE_SIDE = "CHNCXR_0001_0"
# One of each set.
CORRUPT = ("CHNCXR_0330_1", "MCUCXR_0113_1")
ABSENT = ("CHNCXR_0328_1", "MCUCXR_0002_0")
STRANGE_NAMES = ("CHNCXR_0400", "MCUCXR_0400_2")


class FakeImage(NamedTuple):
    """What the fake says of one image."""

    picture: np.ndarray
    tuberculosis: int
    patient: str
    sex: str
    age: float


def write(
    folder: Path, *, sets: tuple[str, ...] = ("CHNCXR", "MCUCXR"), current: bool = False
) -> dict[str, FakeImage]:
    """Writes the raw layout into `folder`; returns the readable images by image id.

    Args:
      sets: which of the two are there.
      current: Shenzhen as the site has it now, with annotations beside it.
    """
    images = {}
    for number, (prefix, strange) in enumerate(zip(SETS, STRANGE_NAMES)):
        if prefix not in sets:
            continue
        root = folder / (
            "MontgomerySet"
            if prefix == "MCUCXR"
            else "Shenzhen-Hospital-CXR-Set"
            if current
            else "ChinaSet_AllFiles/ChinaSet_AllFiles"
        )
        for place in ("CXR_png", "ClinicalReadings", "ManualMask/leftMask", "ManualMask/rightMask"):
            (root / place).mkdir(parents=True)
        for index, (name, (text, sex, age)) in enumerate(SETS[prefix].items()):
            picture = draw_image(100 * number + index, 68, 60)
            if text is not None:
                (root / f"ClinicalReadings/{name}.txt").write_bytes(text)
            for side, rows in (("left", slice(0, 20)), ("right", slice(20, None))):
                mask = np.zeros_like(picture)
                mask[rows, 5:40] = 255
                if side == "left" or name != ONE_SIDE:
                    Image.fromarray(mask).save(root / f"ManualMask/{side}Mask/{name}.png")
            path = root / f"CXR_png/{name}.png"
            if name in ABSENT:
                continue
            _save(path, picture, rgb=prefix == "CHNCXR", palette=name == PALETTE)
            if name in CORRUPT:
                path.write_bytes(path.read_bytes()[:400])
                continue
            images[name] = FakeImage(picture, int(name[-1]), name[:-2], sex, age)
        _save(root / f"CXR_png/{strange}.png", draw_image(0, 68, 60))
        (root / "CXR_png/Thumbs.db").write_bytes(b"\0")
        if current and prefix == "CHNCXR":
            (root / "Annotations-2/masks").mkdir(parents=True)
            (root / "shenzhen_consensus_roi.csv").write_text("patientId,x,y\n")
            _save(
                root / "Annotations-2/masks/CHNCXR_0330_1_Pleural_Effusion_2.png",
                draw_image(1, 68, 60),
            )
    return images


def _save(path: Path, picture: np.ndarray, rgb: bool = False, palette: bool = False) -> None:
    image = Image.fromarray(picture)
    if palette:
        # An inverted palette: whoever reads its indices gets a negative.
        image = Image.fromarray(255 - picture, "P")
        image.putpalette([value for grey in range(255, -1, -1) for value in (grey, grey, grey)])
    elif rgb:
        image = image.convert("RGB")
    image.save(path)

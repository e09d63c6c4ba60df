"""JSRT (Shiraishi et al. 2000): 247 images, a lung nodule or none."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from cxr_jax.data.tasks import Task
from cxr_jax.io import pixels as greys
from cxr_jax.io.limits import MIN_SIDE, BoundedFile, ImageError
from data_builders.base import builder, csv_table, folders, masks, splits
from data_builders.base.records import Box, BuildError, Record, Skipped

NODULE, MALIGNANT = "Nodule", "Malignant"
# Masks, and SCR's folders of their parts (van Ginneken et al. 2006).
SCR = {"Lungs": ("left lung", "right lung"), "Heart": ("heart",)}
NODULES, NORMALS = TABLES = ("CLNDAT_EN.txt", "CNNDAT_EN.TXT")
SIDE, PIXEL_MM = 2048, 0.175
BRIGHTEST = 4095  # of twelve bits
UNKNOWN = float("nan")
BLANKS = ("?", "")  # what the owner writes for what is not known
STATES = {"malignant": 1.0, "benign": 0.0}
SEXES = {"male": "M", "female": "F", **dict.fromkeys(BLANKS, "")}


class Builder(builder.CxrBuilder):
    """The owner's raw images and two tables, at any depth; each image is another patient."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Register at http://db.jsrt.or.jp/eng.php and unpack All247images.zip (or "
        "Nodule154images.zip and NonNodule93images.zip; JPCLN001.IMG …) and "
        f"Clinical_Information.zip ({', '.join(TABLES)}) into manual_dir. Masks: "
        "unpack SCR's scratch.zip there too (fold1/masks/left lung/JPCLN001.gif …)."
    )
    HOMEPAGE: ClassVar = "http://db.jsrt.or.jp/eng.php"
    LABEL_NAMES: ClassVar = (NODULE, MALIGNANT)
    TASKS: ClassVar = {
        "default": Task({NODULE: NODULE}),
        "malignant": Task({MALIGNANT: MALIGNANT}),
    }
    PATIENT: ClassVar = "image, one a person"
    LICENCE: ClassVar = "research use, on registration with JSRT"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    HAS_BOXES: ClassVar = True
    MASK_NAMES: ClassVar = tuple(SCR)
    VERSION: ClassVar = tfds.core.Version("1.1.0")  # with masks
    OWNER_COUNTS: ClassVar = {"images": 247, "patients": 247, NODULE: 154}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        files = list(folders.files_below(manual_dir))
        imgs = (path for path in files if path.suffix.upper() == ".IMG")
        images = folders.unique(imgs, lambda path: path.stem.upper())
        names = {name.casefold(): name for name in TABLES}
        lists = (path for path in files if path.name.casefold() in names)
        tables = folders.unique(lists, lambda path: names[path.name.casefold()])
        parts = scr_files(files)
        listed = set()
        for name in TABLES:
            if name not in tables:
                raise self.nothing(manual_dir, f"no {name}")
            for where, line in _lines(tables[name]):
                patient = read_nodule(line, where) if name == NODULES else read_normal(line, where)
                listed.add(patient.image_id)
                file = images.get(patient.image_id, manual_dir / f"{patient.image_id}.IMG")
                yield dataclasses.replace(
                    patient, image=ImgImage(file), masks=scr_masks(parts, patient.image_id)
                )
        reason = f"no row in {' or '.join(TABLES)}"
        yield from folders.not_listed(images, listed, manual_dir, reason)


def scr_files(files: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Returns SCR's files: folder's name -> image -> path; BuildError where an image has two."""
    folds = {part for parts in SCR.values() for part in parts}
    found = {part: [] for part in folds}
    for path in files:
        part = path.parent.name.casefold().replace("_", " ")
        if part in found and path.suffix.casefold() in (".gif", ".png"):
            found[part].append(path)
    return {
        part: folders.unique(paths, lambda path: path.stem.upper()) for part, paths in found.items()
    }


def scr_masks(
    files: Mapping[str, Mapping[str, Path]], image: str
) -> Callable[[], masks.Masks] | None:
    """Returns what reads an image's masks of which every part is there; None without any."""
    held = {
        name: tuple(files[part][image] for part in parts)
        for name, parts in SCR.items()
        if all(image in files[part] for part in parts)
    }
    return functools.partial(masks.union, held) if held else None


def read_nodule(line: str, where: str) -> Record:
    """Reads a row of nodules: name, subtlety, size (mm), age, sex, x, y, malignant or benign."""
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) < 8:
        raise BuildError(
            f"{where} has {len(fields)} fields between tabs, expected 10 or more: a file name, "
            "subtlety, size, age, sex, x, y, malignant or benign, location, diagnosis."
        )
    name, _, size, age, sex, x, y, state = fields[:8]
    if state.casefold() not in STATES:
        raise BuildError(f"{where}: its eighth field is neither malignant nor benign.")
    labels = {NODULE: 1.0, MALIGNANT: STATES[state.casefold()]}
    return _record(name, "JPCLN", labels, _boxes(size, x, y, where), sex, age, where)


def read_normal(line: str, where: str) -> Record:
    """Reads a row of CNNDAT_EN.TXT: name, age, sex, "non-nodule", separated by spaces."""
    fields = line.split()
    if len(fields) != 4 or fields[3].casefold() != "non-nodule":
        raise BuildError(f"{where} is not a file name, age, sex and 'non-nodule'.")
    name, age, sex, _ = fields
    return _record(name, "JPCNN", {NODULE: 0.0, MALIGNANT: UNKNOWN}, (), sex, age, where)


def _record(
    file: str,
    prefix: str,
    labels: dict[str, float],
    boxes: tuple[Box, ...],
    sex: str,
    age: str,
    where: str,
) -> Record:
    name = file.upper().removesuffix(".IMG")
    if not re.fullmatch(rf"{prefix}[0-9]+", name):
        raise BuildError(f"{where}: its first field is not a file name like {prefix}001.IMG.")
    if sex.casefold() not in SEXES:
        raise BuildError(f"{where}: sex is none of male, female and ?.")
    return Record(
        split=splits.by_patient(name),
        image_id=name,
        patient_id=name,
        image=ImgImage(Path(f"{name}.IMG")),
        labels=labels,
        projection="PA",
        sex=SEXES[sex.casefold()],
        age=csv_table.numbers(["nan" if age in BLANKS else age], "age", where)[0],
        boxes=boxes,
        row=where,
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    text = folders.read_bytes(path).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line.strip():
            yield f"{path.name}, row {number}", line


def _boxes(size: str, x: str, y: str, where: str) -> tuple[Box, ...]:
    """Returns a square as wide as the nodule around its centre, given on the 2048 grid."""
    if any(value in BLANKS for value in (size, x, y)):
        return ()
    width, column, row = csv_table.numbers((size, x, y), "size, x, y", where)
    radius = width / PIXEL_MM / 2
    if not (0 < 2 * radius < SIDE and 0 <= column < SIDE and 0 <= row < SIDE):
        raise BuildError(
            f"{where}: a nodule of its size, x and y is not on an image of {SIDE} x {SIDE} pixels. "
            "The columns have been moved against each other."
        )
    y0, x0, y1, x1 = (
        min(1.0, max(0.0, corner / SIDE))
        for corner in (row - radius, column - radius, row + radius, column + radius)
    )
    return (Box(NODULE, y0=y0, x0=x0, y1=y1, x1=x1),)


@dataclasses.dataclass(frozen=True)
class ImgImage:
    """Reads one .IMG file when called: raw pixels without a header, high byte first, a negative."""

    path: Path

    def __str__(self) -> str:  # for messages
        return self.path.name

    def __call__(self) -> UInt8[np.ndarray, "h w 1"]:
        """Returns the image as displayed, stretched from its darkest to its brightest value.

        Raises:
          ImageError: no such file, of another length, or with values beyond 12 bits.
        """
        try:
            with BoundedFile(self.path) as file:
                stored = file.read()
        except OSError as error:
            raise ImageError("no such file") from error
        # 2048, or a copy halved from it.
        side = math.isqrt(len(stored) // 2)
        if len(stored) != 2 * side * side or side < MIN_SIDE or SIDE % side:
            raise ImageError(
                f"{len(stored):,} bytes, expected {2 * SIDE * SIDE:,} ({SIDE} x {SIDE} pixels of "
                "two bytes): cut off, or another format"
            )
        pixels = np.frombuffer(stored, ">u2").reshape(side, side)
        if pixels.max() > BRIGHTEST:
            raise ImageError(f"a value of {pixels.max()}, beyond 12 bits: its bytes are swapped")
        return greys.to_uint8((BRIGHTEST - pixels).astype(np.uint16))[..., None]

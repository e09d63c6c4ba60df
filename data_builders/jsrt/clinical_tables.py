"""JSRT's two tables: one row an image, without header, line ends of three kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_builders.base import csv_table, folders
from data_builders.base.records import Box, BuildError
from data_builders.jsrt.img_image import SIDE

NODULE, MALIGNANT = "Nodule", "Malignant"
PIXEL_MM = 0.175
OLDEST = 120.0
UNKNOWN = float("nan")
# What the owner writes for what is not known.
BLANKS = ("?", "")
STATES = {"malignant": 1.0, "benign": 0.0}
SEXES = {"male": "M", "female": "F"}


class Patient(NamedTuple):
    """A row: the image's name ("JPCLN001") and what is said of its patient."""

    name: str
    labels: dict[str, float]
    boxes: tuple[Box, ...]
    sex: str
    age: float
    where: str


def read_nodules(path: Path) -> Iterator[Patient]:
    """CLNDAT_EN.txt: name, subtlety, size in mm, age, sex, x, y, malignant or benign, and more.

    Raises:
      BuildError: a row of other fields.
    """
    for where, line in _lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) < 8:
            raise BuildError(
                f"{where} has {len(fields)} fields between tabs, expected 10 or more: a file name, "
                "subtlety, size, age, sex, x, y, malignant or benign, location, diagnosis."
            )
        name, _, size, age, sex, x, y, state = fields[:8]
        if state.casefold() not in STATES:
            raise BuildError(f"{where}: its eighth field is neither malignant nor benign.")
        yield Patient(
            name=_name(name, "JPCLN", where),
            labels={NODULE: 1.0, MALIGNANT: STATES[state.casefold()]},
            boxes=_boxes(size, x, y, where),
            sex=_sex(sex, where),
            age=_age(age, where),
            where=where,
        )


def read_normals(path: Path) -> Iterator[Patient]:
    """CNNDAT_EN.TXT: name, age, sex, "non-nodule", apart by spaces.

    Raises:
      BuildError: a row of other fields.
    """
    for where, line in _lines(path):
        fields = line.split()
        if len(fields) != 4 or fields[3].casefold() != "non-nodule":
            raise BuildError(f"{where} is not a file name, age, sex and 'non-nodule'.")
        name, age, sex, _ = fields
        yield Patient(
            name=_name(name, "JPCNN", where),
            labels={NODULE: 0.0, MALIGNANT: UNKNOWN},
            boxes=(),
            sex=_sex(sex, where),
            age=_age(age, where),
            where=where,
        )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    text = folders.read_bytes(path).decode("utf-8-sig", errors="replace")
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line.strip():
            yield f"{path.name}, row {number}", line


def _name(file: str, prefix: str, where: str) -> str:
    name = file.upper().removesuffix(".IMG")
    number = name.removeprefix(prefix)
    if number == name or not (number.isascii() and number.isdigit()):
        raise BuildError(f"{where}: its first field is no file name like {prefix}001.IMG.")
    return name


def _boxes(size: str, x: str, y: str, where: str) -> tuple[Box, ...]:
    """A square as wide as the nodule around its centre, which is given on the 2048 grid."""
    if any(value in BLANKS for value in (size, x, y)):
        return ()
    radius = _number(size, "size", where) / PIXEL_MM / 2
    column, row = _number(x, "x", where), _number(y, "y", where)
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


def _number(value: str, field: str, where: str) -> float:
    number = csv_table.number(value)
    if number is None:
        raise BuildError(f"{where}: {field} is not a number.")
    return number


def _age(value: str, where: str) -> float:
    age = UNKNOWN if value in BLANKS else _number(value, "age", where)
    return age if age <= OLDEST else UNKNOWN


def _sex(value: str, where: str) -> str:
    if value in BLANKS:
        return ""
    if value.casefold() not in SEXES:
        raise BuildError(f"{where}: sex is none of male, female and ?.")
    return SEXES[value.casefold()]

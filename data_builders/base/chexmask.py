"""CheXmask: lungs and hearts on the images of other datasets (Gaggion et al. 2024).

Gaggion et al., "CheXmask: a large-scale dataset of anatomical segmentation masks for multi-center
chest x-ray images", Scientific Data 2024; the layout is that of the owners' code. A network drew
the masks, not people. A table has a row for each image: its name, in a column that every dataset
calls otherwise, Dice RCA (Mean) and (Max), estimates of the masks' quality, and for each organ run
lengths, pairs of the first pixel (from 1, along the rows) and the length, on Height x Width pixels.
Where the mean is above the maximum, as in some of PadChest's, their names were exchanged.

Tables have gigabytes: rows are found once, and read one by one beside their images.
"""

import csv
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cxr_jax.io import image_io
from cxr_jax.io.limits import ImageError, check_size
from data_builders.base import csv_table
from data_builders.base.masks import Masks
from data_builders.base.records import BuildError, Record

ORGANS = {"Lungs": ("Left Lung", "Right Lung"), "Heart": ("Heart",)}
LEAST_QUALITY = 0.7  # the owners' advice
OPTION = {
    "chexmask_csv": "CheXmask's table of this dataset, of its folder OriginalResolution, unpacked "
    "(.csv): lungs and hearts, in a dataset of the name <resolution>_chexmask"
}
_QUALITY, _SIZE = ("Dice RCA (Mean)", "Dice RCA (Max)"), ("Height", "Width")


class Row(NamedTuple):
    """Where an image's row is in the table: bytes from `start` to `stop`."""

    path: Path
    header: tuple[str, ...]
    start: int
    stop: int
    where: str
    trusted: bool  # of an estimated quality that the owners advise


def add_masks(records: list[Record], path: Path, column: str) -> list[Record]:
    """Gives the records the masks of their rows in the table; the image's name is in `column`.

    Raises BuildError: not such a table, an image named twice, or no row for any image.
    """
    rows = find_rows(path, column)
    found = []
    for record in records:
        row = rows.get(_name(record.path.as_posix(), column)) if record.path else None
        read = functools.partial(read_masks, row) if row else None
        found.append(dataclasses.replace(record, masks=read))
    if not any(record.masks for record in found):
        raise BuildError(
            f"--chexmask_csv: none of the {len(rows):,} images of {path} is one of this dataset's: "
            "each dataset has a table of its own"
        )
    return found


def find_rows(path: Path, column: str) -> dict[str, Row]:
    """Returns each image's row; those of an estimated quality below LEAST_QUALITY are left out."""
    header = (column, *_QUALITY, *_SIZE, *(part for parts in ORGANS.values() for part in parts))
    rows = _rows(path) if path.suffix == ".csv" and path.is_file() else iter(())
    names = tuple(next(rows, ([],))[0])
    lacking = [name for name in header if names.count(name) != 1]
    if lacking:
        raise BuildError(
            f"--chexmask_csv: {path} is not CheXmask's table of this dataset, a .csv file with the "
            f"columns {', '.join(header)} (not, or twice: {', '.join(lacking)})"
        )
    at, *judged = (names.index(name) for name in (column, *_QUALITY))
    found: dict[str, Row] = {}
    for number, (fields, start, stop) in enumerate(rows, start=2):
        if not any(fields):
            continue
        where = f"{path.name}, row {number}"
        if len(fields) != len(names):
            raise BuildError(f"{where} has {len(fields)} fields, the header {len(names)}.")
        both = [fields[place] or "nan" for place in judged]  # a blank one is not known
        both = csv_table.numbers(both, " and ".join(_QUALITY), where)
        trusted = all(quality >= LEAST_QUALITY for quality in both)
        name = _name(fields[at], column)
        csv_table.keep_one(found, name, column, Row(path, names, start, stop, where, trusted))
    return {name: row for name, row in found.items() if row.trusted}


def read_masks(row: Row) -> Masks:
    """Reads an image's masks; raises ImageError, naming the row, for run lengths that are none."""
    with open(row.path, "rb") as stream:
        stream.seek(row.start)
        text = stream.read(row.stop - row.start).decode()
    fields = dict(zip(row.header, next(csv.reader([text]))))
    sides = [fields[name] for name in _SIZE]
    if not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise ImageError(f"{row.where}: Height and Width are no whole numbers")
    height, width = map(int, sides)
    check_size(width, height)
    return {
        organ: np.logical_or.reduce(
            [_marked(fields[part], height * width, f"{row.where}, {part}") for part in parts]
        ).reshape(height, width)
        for organ, parts in ORGANS.items()
    }


def _marked(runs: str, size: int, where: str) -> Bool[np.ndarray, " n"]:
    words = runs.split()
    if len(words) % 2 or not all(w.isascii() and w.isdigit() and len(w) < 10 for w in words):
        raise ImageError(f"{where}: no pairs of whole numbers")
    starts, lengths = np.array(words, int).reshape(-1, 2).T
    if len(words) and (starts.min() < 1 or (starts + lengths).max() > size + 1):
        raise ImageError(f"{where}: runs outside of the image")
    marked = np.zeros(size, bool)
    for start, length in zip(starts - 1, lengths):
        marked[start : start + length] = True
    return marked


def _rows(path: Path) -> Iterator[tuple[list[str], int, int]]:
    """Yields each row's fields, and where in the file it begins and ends."""
    place = 0

    def lines() -> Iterator[str]:
        nonlocal place
        with open(path, "rb") as stream:
            while line := stream.readline(csv_table.MAX_LINE):
                place += len(line)
                yield line.decode("utf-8-sig" if place == len(line) else "utf-8")

    reader, start = csv.reader(lines(), strict=True), 0
    try:
        for fields in reader:
            yield fields, start, place
            start = place
    except (csv.Error, UnicodeDecodeError):
        raise BuildError(f"{path.name}, line {reader.line_num}: not CSV, or damaged.") from None


def _name(name: str, column: str) -> str:
    """Returns what a file and the table both call an image: of CheXpert patient, study and view.

    Above the patient's folder is train/ or valid/, or a zip's name.
    """
    parts = image_io.without_suffix(name).split("/")
    return "/".join(parts[-3:] if column == "Path" else parts[-1:])

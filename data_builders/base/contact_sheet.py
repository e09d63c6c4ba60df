"""contact_sheet.png: some images of a dataset as stored, to check polarity and windowing by eye.

A caption gives split, projection and positive labels; no id, no age, nothing about a person.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_builders.base import counts
from data_builders.base.parallel import EncodedImage, Unreadable
from data_builders.base.records import Record

COLUMNS, ROWS = 8, 4
SIDE, CAPTION, GAP = 168, 30, 6
_PAPER, _INK, _BEHIND = 255, 40, 128


def choose(records: Sequence[Record], scale: str) -> list[Record]:
    """Chooses images: first one of every label and projection, then any, in the records' order."""
    chosen: dict[str, Record] = {}
    seen: set[str] = set()
    for record in records:
        kinds = {f"projection {record.projection}", *_positives(record, scale)}
        if kinds - seen:
            seen |= kinds
            chosen[record.image_id] = record
    for record in records:
        if len(chosen) >= COLUMNS * ROWS:
            break
        chosen.setdefault(record.image_id, record)
    return sorted(list(chosen.values())[: COLUMNS * ROWS], key=lambda record: record.projection)


def write(
    path: Path,
    title: str,
    records: Sequence[Record],
    scale: str,
    read: Callable[[Record], EncodedImage | Unreadable],
) -> None:
    """Draws the images of `records`, each read by `read`, with captions under a title."""
    images = [(record, read(record)) for record in records]
    readable = [(record, image) for record, image in images if isinstance(image, EncodedImage)]
    rows = -(-len(readable) // COLUMNS)
    cell_width, cell_height = SIDE + GAP, SIDE + CAPTION + GAP
    sheet = Image.new("L", (COLUMNS * cell_width + GAP, rows * cell_height + 2 * CAPTION), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    draw.text((GAP, 8), title, fill=_INK, font=ImageFont.load_default(15))
    draw.text(
        (GAP, 30),
        "White is dense: bone, heart and diaphragm must be white, air black. Letters and markers "
        "must not be mirrored.",
        fill=_INK,
        font=font,
    )
    for place, (record, image) in enumerate(readable):
        row, column = divmod(place, COLUMNS)
        left, top = GAP + column * cell_width, 2 * CAPTION - GAP + row * cell_height
        draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=_BEHIND)
        picture = Image.open(io.BytesIO(image.image))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(
            picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2)
        )
        findings = ", ".join(_positives(record, scale)) or ("none" if record.labels else "")
        lines = (f"{record.split} {record.projection}", findings)
        for number, line in enumerate(lines):
            where = (left, top + SIDE + 1 + 13 * number)
            draw.text(where, _cut(line, font), fill=_INK, font=font)
    sheet.save(path, optimize=True)


def _positives(record: Record, scale: str) -> list[str]:
    if scale == "grade":
        return [f"{n} = {v:g}" for n, v in record.labels.items() if not np.isnan(v)]
    return [name for name, value in record.labels.items() if counts.is_positive(value, scale)]


def _cut(line: str, font: ImageFont.FreeTypeFont) -> str:
    """Cuts a line to the width of an image."""
    if font.getlength(line) <= SIDE:
        return line
    while line and font.getlength(line + "…") > SIDE:
        line = line[:-1]
    return line + "…"

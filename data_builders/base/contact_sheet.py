"""contact_sheet.png: some images of a dataset as stored, to check polarity and windowing by eye.

A caption gives split, projection and positive labels; no id, no age, nothing about a person.
"""

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
    cells = []
    for record, image in images:
        if isinstance(image, EncodedImage):
            findings = ", ".join(_positives(record, scale)) or ("none" if record.labels else "")
            lines = (f"{record.split} {record.projection}", findings)
            cells.append(([Image.open(io.BytesIO(image.image))], lines))
    sheet = grid(cells, COLUMNS, SIDE, 2 * CAPTION)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), title, fill=_INK, font=ImageFont.load_default(15))
    said = (
        "White is dense: bone, heart and diaphragm must be white, air black. Letters and markers "
        "must not be mirrored."
    )
    draw.text((GAP, 30), said, fill=_INK, font=ImageFont.load_default(11))
    sheet.save(path, optimize=True)


def grid(
    cells: Sequence[tuple[Sequence[Image.Image], Sequence[str]]], columns: int, side: int, top: int
) -> Image.Image:
    """Draws cells of images side by side, `side` pixels each, over lines of text; `top` is free."""
    across = max((len(images) for images, _ in cells), default=1) * side
    width, height = across + GAP, side + CAPTION + GAP
    sheet = Image.new(
        "L", (columns * width + GAP, -(-len(cells) // columns) * height + top), _PAPER
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, (images, lines) in enumerate(cells):
        row, column = divmod(place, columns)
        left, upper = GAP + column * width, top - GAP + row * height
        draw.rectangle((left, upper, left + across - 1, upper + side - 1), fill=_BEHIND)
        for number, image in enumerate(images):
            picture = image.convert("L")
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            x = left + number * side + (side - picture.width) // 2
            sheet.paste(picture, (x, upper + (side - picture.height) // 2))
        for number, line in enumerate(lines):
            draw.text(
                (left, upper + side + 1 + 13 * number),
                _cut(line, font, across),
                fill=_INK,
                font=font,
            )
    return sheet


def _positives(record: Record, scale: str) -> list[str]:
    if scale == "grade":
        return [f"{n} = {v:g}" for n, v in record.labels.items() if not np.isnan(v)]
    return [name for name, value in record.labels.items() if counts.is_positive(value, scale)]


def _cut(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"

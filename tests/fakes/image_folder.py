"""A hospital's export in miniature: every kind of file, sorted into folders by nobody.

Quirks: 16-bit, RGB, palette and transparent PNG, a rotated and a truncated JPEG, DICOM of three
codings, MONOCHROME1, without a suffix, without pixels and with several frames, a DICOMDIR, a TIFF,
macOS's droppings.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fakes.dataset import build_and_read
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import deep, draw_image, stretch

SKIPPED = {
    "broken/truncated.jpg": "ends early",
    "broken/no_pixels.dcm": "without pixels",
    "broken/frames.dcm": "several frames",
    "broken/garbage.png": "not a PNG, JPEG or DICOM",
    "broken/old.tif": ".tif is not",
}
SUFFIXLESS = "dicom/1.2.840.113619.2.5"
LABELS = ("Effusion", "Nodule", "Heart size")


def write(folder: Path) -> dict[str, np.ndarray]:
    """Writes the tree; returns each readable image as it should look, by relative path."""
    images: dict[str, np.ndarray] = {}
    for part in ("png", "jpeg", "dicom", "broken"):
        (folder / part).mkdir(parents=True)

    images["png/grey.png"] = draw_image(1)
    Image.fromarray(draw_image(1)).save(folder / "png/grey.png")
    images["png/colour.PNG"] = draw_image(2)
    Image.fromarray(draw_image(2)).convert("RGB").save(folder / "png/colour.PNG")
    images["png/palette.png"] = draw_image(3)
    Image.fromarray(draw_image(3)).convert("P").save(folder / "png/palette.png")
    images["png/deep.png"] = stretch(deep(4, 9000, 21000))
    Image.fromarray(deep(4, 9000, 21000)).save(folder / "png/deep.png")
    images["png/transparent.png"] = draw_image(5)
    transparent = Image.fromarray(draw_image(5)).convert("LA")
    transparent.putalpha(Image.new("L", transparent.size, 40))
    transparent.save(folder / "png/transparent.png")

    images["jpeg/plain.jpg"] = draw_image(6)
    Image.fromarray(draw_image(6)).save(folder / "jpeg/plain.jpg", quality=95)
    images["jpeg/rotated.jpeg"] = np.rot90(draw_image(7), -1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for display
    Image.fromarray(draw_image(7)).save(folder / "jpeg/rotated.jpeg", quality=95, exif=exif)

    images["dicom/inverted.dcm"] = 255 - draw_image(8)
    write_dicom(
        folder / "dicom/inverted.dcm",
        draw_image(8),
        photometric="MONOCHROME1",
        patient="MRN0008",
        PatientAge="061Y",
        PatientSex="F",
        ViewPosition="PA",
    )
    images["dicom/twelve.dicom"] = stretch(deep(9, 300, 3600))
    write_dicom(folder / "dicom/twelve.dicom", deep(9, 300, 3600), bits=12, patient="MRN0008")
    images["dicom/jpeg.dcm"] = draw_image(10)
    write_dicom(folder / "dicom/jpeg.dcm", draw_image(10), coding="jpeg", patient="MRN0010")
    images["dicom/jpeg2000.dcm"] = draw_image(11)
    write_dicom(folder / "dicom/jpeg2000.dcm", draw_image(11), coding="jpeg2000", patient="MRN0011")
    images[SUFFIXLESS] = draw_image(12)
    write_dicom(folder / SUFFIXLESS, draw_image(12), patient="MRN0012")

    whole = folder / "jpeg/plain.jpg"
    (folder / "broken/truncated.jpg").write_bytes(whole.read_bytes()[:600])
    (folder / "broken/garbage.png").write_bytes(b"no picture at all" * 20)
    Image.fromarray(draw_image(13)).save(folder / "broken/old.tif")
    write_dicom(folder / "broken/no_pixels.dcm", None)
    write_dicom(folder / "broken/frames.dcm", np.stack([draw_image(14)] * 3))
    write_dicom(folder / "DICOMDIR", None)
    (folder / "._grey.png").write_bytes(b"\0")
    (folder / "png/.DS_Store").write_bytes(b"\0")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX/grey.png").write_bytes(b"\0")
    (folder / "notes.txt").write_text("not an image")
    return images


def write_labels(path: Path, names: list[str], **columns: list[str]) -> list[dict[str, str]]:
    """Writes a CSV with the column `image`, the given columns and LABELS; returns its rows.

    The labels go through 1, 0, -1 and blank in a way that differs from row to row.
    """
    values = ("1", "0", "-1", "")
    rows = [
        {
            "image": name,
            **{column: cells[index] for column, cells in columns.items()},
            **{label: values[(index * (k + 1) + k) % 4] for k, label in enumerate(LABELS)},
        }
        for index, name in enumerate(names)
    ]
    write_rows(path, rows)
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes rows as a CSV."""
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def image_id(name: str) -> str:
    """Returns the id of the image of that relative path."""
    return name if name == SUFFIXLESS else name.rsplit(".", 1)[0]


def build(raw: Path, data: Path, **settings: Any) -> tuple[Path, dict[str, list]]:
    """Builds the tree; as build_and_read."""
    return build_and_read("image_folder", data, manual_dir=raw, **settings)

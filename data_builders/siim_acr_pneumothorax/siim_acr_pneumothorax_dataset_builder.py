"""SIIM-ACR Pneumothorax (2019): 12,047 images, with the outline of every pneumothorax."""

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from scipy import ndimage

from cxr_jax.io.limits import ImageError
from data_builders.base import boxes, builder, csv_table, folders, masks, parallel, splits
from data_builders.base.records import Box, BuildError, Record, Skipped

LABEL = "Pneumothorax"
# The later table goes first: it has the images of the earlier one and more.
OUTLINES = ("stage_2_train.csv", "train-rle.csv")
HELD_OUT = "dicom-images-test/"
SIDE = 1024  # pixels of a mask's sides
# The copy in PNG.
PNG_IMAGES, PNG_MASKS = "png_images", "png_masks"
PNG_TABLES = {"train": "stage_1_train_images.csv", "test": "stage_1_test_images.csv"}
# As many of the owner's stage-1 training images as others hold back for validation.
VALIDATION_SHARE = 1 / 8

_PNG_NAME = re.compile(r"(\d+)_(train|test)_([01])_")


class Builder(builder.CxrBuilder):
    """The competition's DICOM files with outlines as run lengths, or the copy in PNG on Kaggle."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Put into manual_dir either train-rle.csv (or stage_2_train.csv) with dicom-images-train/ "
        "and dicom-images-test/ of the SIIM-ACR Pneumothorax Segmentation competition, or Kaggle's "
        "vbookshelf/pneumothorax-chest-xray-images-and-masks with png_images/ and png_masks/."
    )
    HOMEPAGE: ClassVar = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation"
    LABEL_NAMES: ClassVar = (LABEL,)
    PATIENT: ClassVar = "image"
    PATIENT_NOTE: ClassVar = (
        "Its images are NIH's, of which one person has several; PatientID in the headers is not "
        "NIH's and, as in RSNA's set by the same hands, may number images."
    )
    PARENT: ClassVar = "nih_chestxray14"
    LICENCE: ClassVar = "the rules of the SIIM-ACR competition"
    SPLIT_RULE: ClassVar = (
        "DICOM: 70 % train, 10 % validation, 20 % test by a fixed hash of the patient. PNG copy: "
        "the owner's stage-1 test; one eighth of its train images, by a fixed hash, are validation."
    )
    HAS_BOXES: ClassVar = True
    MASK_NAMES: ClassVar = (LABEL,)
    VERSION: ClassVar = tfds.core.Version("1.1.0")  # with masks
    OWNER_COUNTS: ClassVar = {"images": 12_047, LABEL: 2_669}

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        names = (*OUTLINES, PNG_IMAGES)
        root = self.root(manual_dir, *names)
        if (root / PNG_IMAGES).is_dir():
            return self._png_records(root)
        return self._dicom_records(root)

    def _dicom_records(self, root: Path) -> Iterator[Record | Skipped]:
        path = folders.require(root, *OUTLINES)
        outlines = read_outlines(path)
        images = folders.by_stem(root, (".dcm", ".dicom"))
        headers = self.read_tags(images, outlines)
        for image, outline in outlines.items():
            tags = headers[image]
            patient = tags.patient_id or image
            yield Record(
                split=splits.by_patient(patient),
                image_id=image,
                patient_id=patient,
                patient_known=False,
                image=images.get(image, root / "dicom-images-train" / f"{image}.dcm"),
                labels={LABEL: float(bool(outline.boxes))},
                study_id=tags.study_id,
                projection=tags.projection,
                sex=tags.sex,
                age=tags.age,
                boxes=outline.boxes,
                masks=functools.partial(run_length_masks, outline.runs),
                row=outline.where,
            )
        for skipped in folders.not_listed(images, outlines, root, f"no row in {path.name}"):
            if HELD_OUT not in skipped.file:  # at first the competition's test had no outlines
                yield skipped

    def _png_records(self, root: Path) -> Iterator[Record | Skipped]:
        images = folders.by_stem(root / PNG_IMAGES, (".png",))
        files = folders.by_stem(root / PNG_MASKS, (".png",))
        rows = list(png_rows(root, images))
        outlined = [(row.stem, files[row.stem]) for row in rows if row.label and row.stem in files]
        found = dict(parallel.parallel_map(mask_boxes, outlined, self.settings.num_workers))
        for row in rows:
            places = found.get(row.stem, ())
            if places is None:
                name = files[row.stem].relative_to(root).as_posix()
                yield Skipped(name, "a mask that cannot be read; its image has no boxes")
            elif row.stem in found and not places:
                raise BuildError(
                    f"{files[row.stem]} is empty, but {row.where} says that its image shows a "
                    "pneumothorax. Restore the owner's file."
                )
            mask = None  # of a pneumothorax whose mask is not there, nothing is known
            if places or not row.label:
                mask = functools.partial(read_mask, files[row.stem] if places else None)
            image_id = f"{row.number}_{row.part}"
            yield Record(
                split=splits.carve_validation(image_id, VALIDATION_SHARE, row.part),
                image_id=image_id,
                patient_id=image_id,
                patient_known=False,
                image=images.get(row.stem, root / PNG_IMAGES / f"{row.stem}.png"),
                labels={LABEL: float(row.label)},
                boxes=tuple(places or ()),
                masks=mask,
                row=row.where,
            )
        listed = {row.stem for row in rows}
        yield from folders.not_listed(images, listed, root, "no row in the stage-1 tables")


class Outline(NamedTuple):
    """One image in the table: a box and run lengths for each of its rows, or none."""

    boxes: tuple[Box, ...]
    where: str
    runs: tuple[str, ...] = ()


def read_outlines(path: Path) -> dict[str, Outline]:
    """Returns ImageId -> its outline, in the table's order; BuildError if its rows contradict."""
    outlines: dict[str, Outline] = {}
    for where, (image, runs) in csv_table.Table(path).select(("ImageId", "EncodedPixels")):
        found, own = ((), ()) if runs == "-1" else ((run_length_box(runs, where),), (runs,))
        earlier = outlines.setdefault(image, Outline(found, where, own))
        if bool(earlier.boxes) != bool(found):
            raise BuildError(
                f"An image has a pneumothorax in one of {earlier.where} and {where} and none in "
                "the other. Restore the owner's file."
            )
        if earlier.where != where:
            outlines[image] = Outline(earlier.boxes + found, earlier.where, earlier.runs + own)
    return outlines


def run_length_box(runs: str, where: str) -> Box:
    """Returns the smallest box around a mask, without making the mask.

    A mask's 1024 x 1024 pixels are numbered down the columns. It is written as pairs: the pixels
    to skip since the last run's end, and the run's length.

    Raises BuildError: not pairs of whole numbers, an empty mask, or one that leaves the image.
    """
    words = runs.split()
    if not words or len(words) % 2 or not (runs.isascii() and "".join(words).isdigit()):
        raise BuildError(f"{where}: EncodedPixels is neither -1 nor pairs of skip and length.")
    numbers = [int(word[:8]) for word in words]  # eight digits are too many already
    if sum(numbers) > SIDE * SIDE or not any(numbers[1::2]):
        raise BuildError(
            f"{where}: EncodedPixels marks nothing or more than {SIDE} x {SIDE} pixels. Are the "
            "run lengths relative, as the owner's are?"
        )
    skips_and_lengths = np.array(numbers)
    ends = np.cumsum(skips_and_lengths)[1::2]
    lengths = skips_and_lengths[1::2]
    first = (ends - lengths)[lengths > 0]
    last = ends[lengths > 0] - 1
    x0, x1 = first[0] // SIDE, last[-1] // SIDE
    # A run that goes on in the next column touches the image's lower and upper edge.
    wraps = bool((first // SIDE != last // SIDE).any())
    y0, y1 = (0, SIDE - 1) if wraps else ((first % SIDE).min(), (last % SIDE).max())
    corners = (float(x0), float(y0), float(x1 + 1), float(y1 + 1))
    return boxes.from_pixels(LABEL, corners, (SIDE, SIDE), where)


def run_length_masks(rows: tuple[str, ...]) -> masks.Masks:
    """Returns the mask that all rows of an image mark together, as `run_length_box` reads them."""
    marked = np.zeros(SIDE * SIDE, bool)
    for runs in rows:
        numbers = np.array(runs.split(), int)
        ends = np.cumsum(numbers)[1::2]
        for end, length in zip(ends, numbers[1::2]):
            marked[end - length : end] = True
    return {LABEL: marked.reshape(SIDE, SIDE).T if rows else None}


def read_mask(path: Path | None) -> masks.Masks:
    """Reads a mask of the copy in PNG; None is one without a pneumothorax."""
    return {LABEL: None if path is None else masks.read(path)}


class PngRow(NamedTuple):
    """One image: the file's name without .png, and what that name says."""

    stem: str
    number: str
    part: str  # "train" or "test"
    label: bool
    where: str


def png_rows(root: Path, stems: Iterable[str]) -> Iterator[PngRow]:
    """Yields what the stage-1 tables list, or files' names say; BuildError if they contradict."""
    if folders.optional(root, *PNG_TABLES.values()) is None:
        yield from (parse_png_name(stem, f"{PNG_IMAGES}/{stem}.png") for stem in sorted(stems))
        return
    for part, table_name in PNG_TABLES.items():
        table = csv_table.Table(folders.require(root, table_name))
        for where, (name, label) in table.select(("new_filename", "has_pneumo")):
            parsed = parse_png_name(name, where)
            if (part, csv_table.FLAGS.get(label)) != (parsed.part, parsed.label):
                raise BuildError(
                    f"{where} contradicts the name of its image in part, which is {part!r}, or "
                    "has_pneumo. Restore the owner's file."
                )
            yield parsed


def parse_png_name(name: str, where: str) -> PngRow:
    """Reads a name: "12_train_1_.png" is number 12, in train, with pneumothorax."""
    stem = name.removesuffix(".png")
    match = _PNG_NAME.fullmatch(stem)
    if match is None:
        raise BuildError(f"{where}: the image is not named like 12_train_1_.png.")
    return PngRow(stem, match[1], match[2], match[3] == "1", where)


def mask_boxes(path: Path) -> list[Box] | None:
    """Returns a box for each connected part of a mask; None if it cannot be read."""
    try:
        mask = masks.read(path)
    except ImageError:
        return None
    parts, _ = ndimage.label(mask, structure=[[1] * 3] * 3)
    height, width = mask.shape
    return [
        Box(LABEL, y.start / height, x.start / width, y.stop / height, x.stop / width)
        for y, x in ndimage.find_objects(parts)
    ]

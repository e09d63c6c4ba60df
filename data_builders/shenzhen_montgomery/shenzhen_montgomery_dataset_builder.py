"""NLM's Shenzhen and Montgomery sets (Jaeger et al. 2014): 800 images, tuberculosis or not."""

import collections
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from data_builders.base import builder, folders, masks, splits
from data_builders.base.records import BuildError, Record, Skipped

LABEL, LUNGS = "Tuberculosis", "Lungs"
# Montgomery's folders of one lung each, and those in which a mask holds both.
SIDES, WHOLE = ("leftmask", "rightmask"), ("mask", "masks")
IMAGES, READINGS = "CXR_png", "ClinicalReadings"
SETS = {"CHNCXR": {"images": 662, LABEL: 336}, "MCUCXR": {"images": 138, LABEL: 58}}
UNKNOWN = float("nan")

# Set, number, and 1 for tuberculosis: CHNCXR is Shenzhen's, MCUCXR Montgomery's.
_NAME = re.compile(r"((?:CHNCXR|MCUCXR)_\d{4})_([01])")
_AGE = re.compile(r"(\d{1,3})\s*([a-z]*)")
_UNITS = {"": 1.0, "y": 1.0, "m": 12.0, "w": 52.18, "d": 365.25}


class Builder(builder.CxrBuilder):
    """Both sets pooled, or the one that is there; the label is in the file's name."""

    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar = (
        "Unpack NLM's Shenzhen set (ChinaSet_AllFiles.zip, or the folder Shenzhen-Hospital-CXR-Set)"
        " and Montgomery set (NLM-MontgomeryCXRSet.zip or MontgomerySet.zip) from "
        "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/ into "
        "manual_dir, so that folders CXR_png and ClinicalReadings exist below it. One of the two "
        "sets is enough. Masks of lungs are Montgomery's ManualMask/, and for Shenzhen, of another "
        "owner, mask/CHNCXR_0001_0_mask.png …"
    )
    HOMEPAGE: ClassVar = (
        "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/index.html"
    )
    LABEL_NAMES: ClassVar = (LABEL,)
    MASK_NAMES: ClassVar = (LUNGS,)
    VERSION: ClassVar = tfds.core.Version("1.1.0")  # with masks
    PATIENT: ClassVar = "image, one a person"
    LICENCE: ClassVar = "open; NLM asks to be cited"
    SPLIT_RULE: ClassVar = "70 % train, 10 % validation, 20 % test by a fixed hash of the patient."
    OWNER_COUNTS: ClassVar = {"images": 800, "patients": 800, LABEL: 394}

    def owner_counts(self, records: Sequence[Record]) -> Mapping[str, int]:
        there = {record.image_id.partition("_")[0] for record in records}
        return self.OWNER_COUNTS if len(there) > 1 else SETS[there.pop()]

    def records(self, manual_dir: Path | None) -> Iterator[Record | Skipped]:
        # Masks have their images' names; the folder tells them apart.
        by_kind: dict[tuple[str, str], list[Path]] = collections.defaultdict(list)
        for path in folders.files_below(manual_dir):
            by_kind[path.parent.name.casefold(), path.suffix.lower()].append(path)
        images = folders.unique(by_kind[IMAGES.casefold(), ".png"], lambda path: path.stem)
        readings = folders.unique(by_kind[READINGS.casefold(), ".txt"], lambda path: path.stem)
        if not images and not readings:
            raise self.nothing(manual_dir, f"no folder {IMAGES} with images")
        lungs = lung_files(by_kind)
        names: dict[str, str] = {}
        for name in sorted(images.keys() | readings.keys()):
            file = images.get(name) or readings[name]
            match = _NAME.fullmatch(name)
            if match is None:
                reason = "its name is not like CHNCXR_0001_0 or MCUCXR_0001_0, so it has no label"
                yield Skipped(file.relative_to(manual_dir).as_posix(), reason)
                continue
            path = images.get(name) or file.parents[1] / IMAGES / f"{name}.png"
            patient, digit = match.groups()
            if patient in names:
                raise BuildError(
                    f"{names[patient]} and {name} in {path.parent}: one says tuberculosis and the "
                    "other does not. Remove the one that the owner's archive does not have."
                )
            names[patient] = name
            text = folders.read_bytes(readings[name]) if name in readings else b""
            sex, age = parse_reading(text.decode("utf-8", errors="replace"))
            yield Record(
                split=splits.by_patient(patient),
                image_id=name,
                patient_id=patient,
                image=path,
                labels={LABEL: float(digit)},
                projection="FRONTAL",
                sex=sex,
                age=age,
                masks=functools.partial(masks.union, {LUNGS: lungs[name]})
                if name in lungs
                else None,
                row=f"{name}.png",
            )


def lung_files(
    by_kind: Mapping[tuple[str, str], Sequence[Path]],
) -> dict[str, tuple[Path, ...]]:
    """Returns an image's name -> the files that make its lungs' mask: one, or one a side.

    An image of which one side is there alone has none: half of the lungs would be a wrong mask.
    """
    sides = [folders.unique(by_kind.get((side, ".png"), ()), lambda p: p.stem) for side in SIDES]
    found = {
        name: tuple(side[name] for side in sides) for name in set.intersection(*map(set, sides))
    }
    for folder in WHOLE:
        for path in by_kind.get((folder, ".png"), ()):
            found.setdefault(path.stem.removesuffix("_mask"), (path,))
    return found


def parse_reading(text: str) -> tuple[str, float]:
    """Reads sex and age from Shenzhen's first line ("male 45yrs") or Montgomery's labelled lines.

    What is missing or strange is unknown: the texts were typed by hand, and neither is a label.

    >>> parse_reading("male 45yrs\\nnormal")
    ('M', 45.0)
    """
    lines = [line.strip().casefold() for line in text.splitlines() if line.strip()]
    labelled = dict(
        line.removeprefix("patient's ").split(":", 1)
        for line in lines
        if line.startswith("patient's ") and ":" in line
    )
    first = lines[0] if lines and not labelled else ""
    return _sex(labelled.get("sex", first)), _years(labelled.get("age", first))


def _sex(text: str) -> str:
    text = text.strip()
    if "female" in text or text == "f":
        return "F"
    return "M" if "male" in text or text == "m" else ""


def _years(text: str) -> float:
    match = _AGE.search(text)
    if match is None or match[2][:1] not in _UNITS:
        return UNKNOWN
    return int(match[1]) / _UNITS[match[2][:1]]

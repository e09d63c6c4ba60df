"""Splits by patient: a fixed hash, so that a patient's split does not depend on other patients; or
a list of somebody else's (--splits_csv)."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_builders.base import csv_table, records
from data_builders.base.records import BuildError, Record, Skipped

_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def patient_fraction(patient_id: str) -> float:
    """Maps an id to a number in [0, 1), fixed for ever: its SHA-256 as a binary fraction.

    >>> round(patient_fraction("patient-1"), 6), by_patient("patient-1")
    (0.793377, 'validation')
    """
    digest = hashlib.sha256(patient_id.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_patient(patient_id: str) -> str:
    """Returns the split where the owner made none: 70 % train, 10 % validation, 20 % test."""
    fraction = patient_fraction(patient_id)
    if fraction < 0.7:
        return "train"
    return "validation" if fraction < 0.8 else "test"


def carve_validation(patient_id: str, share: float, part: str = "train") -> str:
    """Splits the owner's train part, of which `share` goes to validation; other parts stay."""
    carved = part == "train" and patient_fraction(patient_id) >= 1.0 - share
    return "validation" if carved else part


def describe_list(path: Path) -> str:
    """Names a list of splits: its file and 16 hex digits of its content."""
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def by_list(
    path: Path, listed: Sequence[Record], manual_dir: Path | None
) -> tuple[list[Record], list[Skipped]]:
    """Returns the images that a CSV splits, with its splits, and what it lacks or names in vain.

    Its columns: `image`, an image's id, its file's name, with its ending or without, or its path
    below manual_dir (of that and the listed path, one may be the end of the other), and `split`.
    Images that it lacks are left out; rows whose image the dataset lacks count as lost. Raises
    BuildError, naming rows, for other words, an image named twice or by a name of several, and a
    patient in two splits: scores would be too good.
    """
    exact: dict[str, Record] = {}
    ends: dict[str, list[Record]] = {}
    for record in listed:
        names = {record.image_id}
        if record.path is not None:
            names.add(records.relative_name(record.path, manual_dir))
        exact |= dict.fromkeys(names, record)
        paths = [PurePosixPath(name) for name in names]
        for end in {end for path in paths for end in (path.name, path.stem)}:
            ends.setdefault(end, []).append(record)
    split: dict[str, tuple[str, str]] = {}
    first: dict[str, tuple[str, str]] = {}
    skipped, crossing = [], []
    for where, (name, word) in csv_table.Table(path).select(("image", "split")):
        if word.casefold() not in _WORDS:
            raise BuildError(f"{where}: its split is none of {', '.join(records.SPLITS)}.")
        found = [exact[name]] if name in exact else ends.get(PurePosixPath(name).name, [])
        if name not in exact and "/" in name:
            found = [record for record in found if _is_end(name, record, manual_dir)]
        if len(found) > 1:
            raise BuildError(
                f"{where}: {len(found)} images have this name; give their paths below --manual_dir."
            )
        if not found:
            skipped.append(Skipped(where, "the dataset has no image of this name"))
            continue
        (record,) = found
        now = (_WORDS[word.casefold()], where)
        if record.image_id in split:
            raise BuildError(f"{where}: its image is in {split[record.image_id][1]} too. Keep one.")
        split[record.image_id] = now
        before = first.setdefault(record.patient_id, now)
        if before[0] != now[0]:
            crossing.append((before, now))
    if crossing:
        (one, here), (other, there) = crossing[0]
        raise BuildError(
            f"{path.name} puts images of one patient into two splits, {len(crossing):,} times: for "
            f"example {here} into {one} and {there} into {other}. Tests would be of patients that "
            "were trained on, and scores too good: leave these rows out of one of the splits."
        )
    kept = [
        dataclasses.replace(record, split=split[record.image_id][0])
        for record in listed
        if record.image_id in split
    ]
    skipped += [
        Skipped(records.name_of(record, manual_dir), f"not in {path.name}", expected=True)
        for record in listed
        if record.image_id not in split
    ]
    return kept, skipped


def _is_end(name: str, record: Record, manual_dir: Path | None) -> bool:
    """Returns whether a listed path is the end of the image's, or this of that, part by part."""
    own = record.image_id
    if record.path is not None:
        own = records.relative_name(record.path, manual_dir)
    path, listed = PurePosixPath(own), PurePosixPath(name).parts
    return any(
        all(one == other for one, other in zip(reversed(listed), reversed(parts)))
        for parts in (path.parts, path.with_suffix("").parts)
    )

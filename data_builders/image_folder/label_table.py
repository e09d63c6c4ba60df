"""A person's CSV: one row per image, every column that is not otherwise known is a label."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxr_jax.io import image_io
from cxr_jax.io.dicom import OLDEST
from data_builders.base import csv_table
from data_builders.base.records import BuildError

NAN = float("nan")
VALUES = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": NAN}
SPLIT_NAMES = {
    **{"train": "train", "test": "test"},
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
}
_LISTED = 10  # wrong cells
KNOWN = ("study_id", "split", "projection", "view", "sex", "age")
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


@dataclasses.dataclass(frozen=True)
class LabelRow:
    """One image in the CSV; fields are empty where it says nothing."""

    where: str
    image: str
    patient: str = ""
    split: str = ""
    study: str = ""
    projection: str = ""
    sex: str = ""
    age: float = float("nan")  # years
    labels: Mapping[str, float] = dataclasses.field(default_factory=dict)


class LabelTable:
    """A CSV of labels. Errors name the row and the column, never a value: it could be a patient's.

    Columns: the image (relative path), and if there are any the patient's id, split, study_id,
    projection (or view, its former name), sex, age; all others are labels with the values 1, 0, -1
    (uncertain) and blank.

    Attributes:
      path: the CSV file.
      image_column: the column of the images' paths.
      label_names: the label columns in their order.
      has_splits: whether there is a column `split`.

    Raises:
      BuildError: no such file or column, a column without a name or with another's.
    """

    def __init__(self, path: Path, image_column: str, patient_column: str | None):
        if not path.is_file():
            raise BuildError(
                f"--labels_csv: there is no file {path.absolute()}. It is a path from the folder "
                "where you are, not from --manual_dir."
            )
        self.path = path
        self._table = csv_table.Table(path)
        columns = self._table.columns
        known = (image_column, patient_column or "patient_id", *KNOWN)
        if not {column.casefold() for column in columns} & {name.casefold() for name in known}:
            # An image's values then, which the errors below would quote.
            raise BuildError(
                f"{path}: its first line holds none of the columns {', '.join(known)}: it must be "
                f"the header.{self._table.separator_hint()}"
            )
        for number, column in enumerate(columns, start=1):
            if not column:
                raise BuildError(
                    f"{path}: column {number} has no name. A pandas index is left out with "
                    "to_csv(index=False)."
                )
            if "/" in column:
                raise BuildError(f"{path}: column {column!r} has a slash, which TFDS cannot store.")
        if repeated := sorted({column for column in columns if columns.count(column) > 1}):
            raise BuildError(f"{path}: columns {repeated} occur twice.")
        self._table.index(image_column)
        if patient_column is not None:
            self._table.index(patient_column)
        self._known = {
            "image": image_column,
            "patient": patient_column or "patient_id",
            "study": "study_id",
            "projection": "projection" if "projection" in columns else "view",
            **{name: name for name in ("split", "sex", "age")},
        }
        self._known = {field: name for field, name in self._known.items() if name in columns}
        self.image_column = image_column
        self.label_names = tuple(name for name in columns if name not in self._known.values())
        self._label_places = [(name, columns.index(name)) for name in self.label_names]
        self.has_splits = "split" in self._known

    def match(self, found: Mapping[str, Path]) -> dict[str, LabelRow]:
        """Returns file name -> its row, in the CSV's order; also rows whose file does not exist.

        Args:
          found: the folder's images by relative path; a row may leave out its image_io.SUFFIXES.

        Raises:
          BuildError: a value that is none of those allowed, a path that leaves the folder or fits
            two images, an image with two rows, or not one row that names an image.
        """
        stems: dict[str, list[str]] = collections.defaultdict(list)
        for name in found:
            stem, _, suffix = name.rpartition(".")
            if f".{suffix}".lower() in image_io.SUFFIXES:
                stems[stem].append(name)
        rows: dict[str, LabelRow] = {}
        wrong, count = [], 0  # labels, which are mended more quickly together than one a build
        for row in self._table.rows(self._table.columns):
            for name, place in self._label_places:
                if row.fields[place] not in VALUES:
                    count += 1
                    if count <= _LISTED:
                        wrong.append(f"{row.where}: label {name!r}")
            parsed = self._parse(row)
            name = parsed.image
            if name not in found and name in stems:
                name, *others = stems[name]
                if others:
                    raise BuildError(
                        f"{row.where}: {self._known['image']} could be {name} or {others[0]}. "
                        "Write the suffix too."
                    )
            if name in rows:
                raise BuildError(
                    f"An image has two rows in {self.path}: {rows[name].where} and "
                    f"{parsed.where}. Keep one."
                )
            rows[name] = dataclasses.replace(parsed, image=name)
        _refuse(wrong, count)
        if not rows.keys() & found.keys():
            raise BuildError(
                f"No row of {self.path} names an image of the folder, whose first is "
                f"{next(iter(found))!r}. Column {self._known['image']!r} must hold paths relative "
                "to manual_dir."
            )
        return rows

    def _parse(self, row: csv_table.Row) -> LabelRow:
        fields = dict(zip(self._table.columns, row.fields, strict=False))
        known = {field: fields[column] for field, column in self._known.items()}
        image = os.path.normpath(known["image"].replace("\\", "/"))
        if not known["image"] or image.startswith(("/", "..")) or image[1:2] == ":":
            column = self._known["image"]
            raise BuildError(f"{row.where}: {column} is not a path inside manual_dir.")
        split = known.get("split", "").casefold()
        if self.has_splits and split not in SPLIT_NAMES:
            raise BuildError(f"{row.where}: split is none of {', '.join(SPLIT_NAMES)}.")
        return LabelRow(
            where=row.where,
            image=image,
            patient=known.get("patient", ""),
            split=SPLIT_NAMES.get(split, ""),
            study=known.get("study", ""),
            projection=known.get("projection", "").upper(),
            sex=SEXES.get(known.get("sex", "").casefold(), ""),
            age=_age(known.get("age", ""), row.where),
            labels={name: VALUES.get(row.fields[place], NAN) for name, place in self._label_places},
        )


def _refuse(wrong: Sequence[str], count: int) -> None:
    """Raises BuildError if there are wrong labels; the first are named in `wrong`."""
    if count:
        more = f"; … ({count:,} cells)" if count > len(wrong) else ""
        raise BuildError(
            f"{'; '.join(wrong)}{more} {'is' if count == 1 else 'are'} neither 1, 0, -1 "
            "(uncertain) nor blank (not mentioned). A column that is no label: remove it, or name "
            "it with --patient_column or --image_column."
        )


def _age(value: str, where: str) -> float:
    years = csv_table.number(value or "nan")
    if years is None or years < 0 or years > OLDEST:  # a date, perhaps
        raise BuildError(f"{where}: the age is not a number of years from 0 to {OLDEST:g}.")
    return years

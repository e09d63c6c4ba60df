"""A person's CSV: one row per image, every column that is not otherwise known is a label."""

from __future__ import annotations

import collections
import csv
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cxr_jax.io import image_io
from cxr_jax.io.dicom import OLDEST
from cxr_jax.io.text import composed
from data_builders.base import csv_table
from data_builders.base.records import BuildError

NAN = float("nan")
# What cells say, in small letters.
VALUES = {
    **dict.fromkeys(("1", "1.0", "yes", "y", "true", "positive", "present", "ja"), 1.0),
    **dict.fromkeys(("0", "0.0", "no", "n", "false", "negative", "absent", "nein"), 0.0),
    **dict.fromkeys(("-1", "-1.0", "uncertain"), -1.0),
    **dict.fromkeys(("", "nan", "na", "n/a"), NAN),
}
SPLITS = {
    **{"train": "train", "test": "test"},
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
}
SEXES = {
    **dict.fromkeys(("m", "male", "man", "männlich"), "M"),
    **dict.fromkeys(("f", "female", "woman", "w", "weiblich"), "F"),
    **dict.fromkeys(("", "nan", "na", "n/a", "?", "u", "unknown", "o", "other", "d", "divers"), ""),
}
KNOWN = ("study_id", "split", "projection", "view", "sex", "age")
_LABEL = "neither 1 (yes, true), 0 (no, false), -1 (uncertain) nor blank (not mentioned)"
_EXPECTED = {
    "split": f"none of {', '.join(SPLITS)}",
    "sex": "none of M, male, F, female, W, unknown and blank",
    "age": f"no number of years from 0 to {OLDEST:g}",
}
_GRADES = {str(grade) for grade in range(11)}


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


class Wrong(NamedTuple):
    """The cells of a column that are not allowed: where the first is, and how many say what."""

    where: str
    cells: collections.Counter[str]


class LabelTable:
    """A CSV of labels. Errors name the row and the column, never a value: it could be a patient's.

    Columns: the image (relative path), and if there are any the patient's id, split, study_id,
    projection (or view, its former name), sex, age; all others, or `label_columns`, are labels with
    the VALUES. `recode` is as the option of that name says.

    Attributes:
      path: the CSV file.
      image_column: the column of the images' paths.
      label_names: the label columns in their order.
      has_splits: whether there is a column `split`.

    Raises BuildError for a file or column that is not there, and columns without a name or with
    another's.
    """

    def __init__(
        self,
        path: Path,
        image_column: str,
        patient_column: str | None,
        label_columns: str = "",
        recode: str = "",
    ):
        if not path.is_file():
            raise BuildError(
                f"--labels_csv: there is no file {path.absolute()}. It is a path from the folder "
                "where you are, not from --manual_dir."
            )
        self.path = path
        self._table = csv_table.Table(path)
        columns = self._table.columns
        image_column, patient = composed(image_column), composed(patient_column or "patient_id")
        labels = [name.strip() for name in next(csv.reader([composed(label_columns)]), [])]
        known = (image_column, patient, *KNOWN)
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
        self._recoded = _recoded(composed(recode))
        asked = [patient] if patient_column is not None else []
        for column in (image_column, *asked, *labels, *self._recoded):
            self._table.index(column)
        fields = {"image": image_column, "patient": patient, "study": "study_id"}
        fields["projection"] = "projection" if "projection" in columns else "view"
        fields |= {name: name for name in ("split", "sex", "age")}
        self._known = {field: name for field, name in fields.items() if name in columns}
        self.image_column = image_column
        others = (name for name in columns if name not in self._known.values())
        self.label_names = tuple(labels or others)
        self.has_splits = "split" in self._known

    def match(self, found: Mapping[str, Path]) -> dict[str, LabelRow]:
        """Returns file name -> its row, in the CSV's order; also rows whose file does not exist.

        Args:
          found: the folder's images by relative path; a row may leave out its image_io.SUFFIXES.

        Raises BuildError for cells that say none of what is allowed, column by column; a path that
        leaves the folder or fits two images; an image with two rows; no row that names an image.
        """
        stems: dict[str, list[str]] = collections.defaultdict(list)
        for name in found:
            stem, _, suffix = name.rpartition(".")
            if f".{suffix}".lower() in image_io.SUFFIXES:
                stems[stem].append(name)
        rows: dict[str, LabelRow] = {}
        wrong: dict[str, Wrong] = {}
        for row in self._table.rows(self._table.columns):
            parsed = self._parse(row, wrong)
            name = parsed.image
            if name not in found and name in stems:
                name, *others = stems[name]
                if others:
                    raise BuildError(
                        f"{row.where}: {self.image_column} could be {name} or {others[0]}. "
                        "Write the suffix too."
                    )
            if name in rows:
                raise BuildError(
                    f"An image has two rows in {self.path}: {rows[name].where} and "
                    f"{parsed.where}. Keep one."
                )
            rows[name] = dataclasses.replace(parsed, image=name)
        self._refuse(wrong)
        if not rows.keys() & found.keys():
            raise BuildError(
                f"No row of {self.path} names an image of the folder, whose first is "
                f"{next(iter(found))!r}. Column {self.image_column!r} must hold paths relative "
                "to manual_dir."
            )
        return rows

    def _parse(self, row: csv_table.Row, wrong: dict[str, Wrong]) -> LabelRow:
        """Returns a row; counts in `wrong`, column by column, the cells that are not allowed."""
        cells = dict(zip(self._table.columns, row.fields, strict=False))
        for column, values in self._recoded.items():
            cells[column] = values.get(cells[column].casefold(), cells[column])
        known = {field: cells[column] for field, column in self._known.items()}
        image = os.path.normpath(known["image"].replace("\\", "/"))
        if not known["image"] or image.startswith(("/", "..")) or image[1:2] == ":":
            raise BuildError(f"{row.where}: {self.image_column} is not a path inside manual_dir.")

        def refuse(column: str, said: str) -> None:
            wrong.setdefault(column, Wrong(row.where, collections.Counter())).cells[said] += 1

        def read(column: str, values: Mapping[str, str | float]) -> str | float:
            said = cells.get(column, "").casefold()
            if said not in values and column in cells:
                refuse(column, said)
            return values.get(said, values.get("", ""))

        years = csv_table.number(known.get("age") or "nan")
        if years is None or years < 0 or years > OLDEST:  # a date, perhaps
            refuse("age", known["age"])
        return LabelRow(
            where=row.where,
            image=image,
            patient=known.get("patient", ""),
            split=read("split", SPLITS),
            study=known.get("study", ""),
            projection=known.get("projection", "").upper(),
            sex=read("sex", SEXES),
            age=NAN if years is None else years,
            labels={name: read(name, VALUES) for name in self.label_names},
        )

    def _refuse(self, wrong: Mapping[str, Wrong]) -> None:
        """Raises BuildError if there are wrong cells: a sentence a column."""
        lines = []
        for column, (where, cells) in wrong.items():
            count = f"{cells.total():,} cells, the first" if cells.total() > 1 else "a cell"
            verb = "are" if cells.total() > 1 else "is"
            line = f"column {column!r}: {count} in {where}, {verb} {_EXPECTED.get(column, _LABEL)}"
            if column not in _EXPECTED and cells.keys() <= _GRADES:
                line += f" (grades? say which count: --recode='{column}:0=0,1=0,2=1,3=1')"
            lines.append(line)
        if lines:
            raise BuildError(
                f"{self.path}: {'; '.join(lines)}. Say what cells stand for with "
                "--recode='COLUMN:OLD=NEW,OLD=NEW;COLUMN:…', or name the columns that are labels "
                "with --label_columns=A,B, and others with --patient_column or --image_column."
            )


def _recoded(recode: str) -> dict[str, dict[str, str]]:
    """Returns column -> old cell, in small letters -> new cell."""
    columns = {}
    for part in filter(None, recode.split(";")):
        column, _, pairs = part.rpartition(":")
        split = [pair.partition("=") for pair in pairs.split(",")]
        if not column or not all(sign for _, sign, _ in split):
            raise BuildError("--recode is not like 'COLUMN:OLD=NEW,OLD=NEW;COLUMN:OLD=NEW'.")
        columns[column.strip()] = {old.strip().casefold(): new.strip() for old, _, new in split}
    return columns

"""A person's CSV: one row per image, every column that is not otherwise known is a label."""

import collections
import csv
import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from cxr_jax.io import image_io
from cxr_jax.io.dicom import OLDEST
from cxr_jax.io.text import composed
from data_builders.base import csv_table
from data_builders.base.records import BuildError

NAN = float("nan")
# What cells say, as `said` has them.
BLANK = ("", "nan", "na", "n/a")
UNKNOWN = (*BLANK, "none", "null", "<na>", "#n/a", "unknown", "?")  # of fields that are no labels
VALUES = {
    **dict.fromkeys(("1", "yes", "y", "true", "positive", "present", "ja"), 1.0),
    **dict.fromkeys(("0", "no", "n", "false", "negative", "absent", "nein"), 0.0),
    **dict.fromkeys(("-1", "uncertain"), -1.0),
    **dict.fromkeys(BLANK, NAN),
}
SPLITS = {
    **{"train": "train", "test": "test"},
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
}
SEXES = {
    **dict.fromkeys(("m", "male", "man", "männlich"), "M"),
    **dict.fromkeys(("f", "female", "woman", "w", "weiblich"), "F"),
    **dict.fromkeys((*UNKNOWN, "u", "o", "other", "d", "divers"), ""),
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
    report: str = ""
    labels: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Wrong(NamedTuple):
    """The cells of a column that are none of what is allowed: the first's place, how many say what.

    `allowed` says that in words.
    """

    where: str
    allowed: str
    cells: collections.Counter[str]


class LabelTable:
    """A CSV of labels. Errors name the row and the column, never a value: it could be a patient's.

    Columns: the image (relative path), and if there are any the patient's id, split, study_id,
    projection (or view, its former name), sex, age, in any case ("Split", "PatientID"); all others,
    or `label_columns`, are labels with the VALUES. `report_column`, if it is not "", is the image's
    report. `recode` is as the option of that name says.

    Attributes:
      path: the CSV file.
      image_column: the column of the images' paths.
      patient_column: the column of the patients' ids, whether it is there or not.
      label_names: the label columns in their order.
      has_splits: whether there is a column `split`.

    Raises BuildError for a file or column that is not there, columns without a name or with
    another's, and a recipe that names a column or a cell twice.
    """

    def __init__(
        self,
        path: Path,
        image_column: str,
        patient_column: str | None,
        label_columns: str = "",
        recode: str = "",
        report_column: str = "",
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
                f"the header.{self._table.separator_hint()} Columns of other names are given as "
                "--image_column=NAME and --patient_column=NAME."
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
        asked = [patient] if patient_column is not None else []
        asked += [composed(report_column)] if report_column else []
        for column in (*asked, *labels):
            self._table.index(column)
        fields = {"image": image_column, "patient": patient, "study": "study_id"}
        fields |= {name: name for name in ("split", "projection", "sex", "age")}
        self._known = {"report": composed(report_column)} if report_column else {}
        for field, name in fields.items():
            name = self._called(name, labels)
            if field == "projection":
                name = name or self._called("view", labels)
            if name:
                self._known[field] = name
        if "image" not in self._known:
            raise BuildError(
                f"{path} has no column {image_column!r}, the images' paths below the folder. "
                "--image_column=NAME says which column holds them."
            )
        ids = [self._known.get(field, "") for field in ("image", "patient", "study")]
        self._recoded = _recoded(composed(recode), ids)
        for column in self._recoded:
            self._table.index(column)
        self.image_column = self._known["image"]
        self.patient_column = self._known.get("patient", patient)
        others = (name for name in columns if name not in self._known.values())
        self.label_names = tuple(labels or others)
        # Of columns whose cells say one of a few words: field -> column, words, what these are.
        closed = {"split": SPLITS, "sex": SEXES}.items()
        self._closed = {
            **{f: (self._known[f], words, _EXPECTED[f]) for f, words in closed if f in self._known},
            **{f"labels/{name}": (name, VALUES, _LABEL) for name in self.label_names},
        }
        self.has_splits = "split" in self._known

    def _called(self, name: str, labels: Collection[str]) -> str:
        """Returns what the column is called, "" if there is none; labels are so in their own case.

        Raises BuildError for several that differ in case and marks alone.
        """
        alike = self._table.alike(name)
        alike = alike if name in alike else [one for one in alike if one not in labels]
        if len(alike) > 1:
            raise BuildError(
                f"{self.path}: each of the columns {alike} could be {name}. Call the right one so."
            )
        return "".join(alike)

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
        prose = [self._known[name] for name in ("report",) if name in self._known]
        for row in self._table.rows(self._table.columns, prose):
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
        for column, (key, values) in self._recoded.items():
            cells[column] = values.get(key(cells[column]), cells[column])
        known = {field: cells[column] for field, column in self._known.items()}
        said_nothing = (field for field, cell in known.items() if cell.casefold() in UNKNOWN)
        known |= {field: "" for field in said_nothing if field != "image"}  # NA.png may be one
        for field in sorted(known.keys() & {"patient", "study"}):
            csv_table.refuse_rounded(known[field], repr(self._known[field]), row.where)
        image = os.path.normpath(known["image"].replace("\\", "/"))
        if not known["image"] or image.startswith(("/", "..")) or image[1:2] == ":":
            raise BuildError(f"{row.where}: {self.image_column} is not a path inside manual_dir.")

        refused, read = [], {}
        age = known.get("age", "")
        years = csv_table.number(age) if age else NAN
        if years is None or years < 0 or years > OLDEST:  # a date, perhaps
            refused.append((self._known["age"], age, _EXPECTED["age"]))
        for field, (column, values, allowed) in self._closed.items():
            cell = said(cells[column])
            if cell not in values:
                refused.append((column, cell, allowed))
            read[field] = values.get(cell, values.get("", ""))
        for column, cell, allowed in refused:
            first = Wrong(row.where, allowed, collections.Counter())
            wrong.setdefault(column, first).cells[cell] += 1
        return LabelRow(
            where=row.where,
            image=image,
            patient=known.get("patient", ""),
            split=read.get("split", ""),
            study=known.get("study", ""),
            projection=known.get("projection", "").upper(),
            sex=read.get("sex", ""),
            age=NAN if years is None else years,
            report=known.get("report", ""),
            labels={name: read[f"labels/{name}"] for name in self.label_names},
        )

    def _refuse(self, wrong: Mapping[str, Wrong]) -> None:
        """Raises BuildError if there are wrong cells: a sentence a column."""
        lines = []
        for column, (where, allowed, cells) in wrong.items():
            count = f"{cells.total():,} cells, the first" if cells.total() > 1 else "a cell"
            verb = "are" if cells.total() > 1 else "is"
            line = f"column {column!r}: {count} in {where}, {verb} {allowed}"
            if allowed == _LABEL and cells.keys() <= _GRADES:
                line += f" (grades? say which count: --recode='{column}:0=0,1=0,2=1,3=1')"
            lines.append(line)
        if lines:
            raise BuildError(
                f"{self.path}: {'; '.join(lines)}. Say what cells stand for with "
                "--recode='COLUMN:OLD=NEW,OLD=NEW;COLUMN:…', or name the columns that are labels "
                "with --label_columns=A,B, and others with --report_column (words), "
                "--patient_column or --image_column."
            )


def said(cell: str) -> str:
    """Returns a cell in small letters, a number in one way of writing it.

    >>> said("Yes"), said("2.0"), said("+1"), said("0.50")
    ('yes', '2', '1', '0.5')
    """
    number = csv_table.number(cell)
    if number is None or not math.isfinite(number):
        return cell.casefold()
    return repr(number + 0.0).removesuffix(".0")  # + 0.0: no "-0"


def _recoded(
    recode: str, ids: Collection[str]
) -> dict[str, tuple[Callable[[str], str], dict[str, str]]]:
    """Returns column -> (how its cells are compared, old cell compared so -> new cell).

    Args:
      ids: columns in which "01" is another than "1".
    """
    columns = {}
    for part in filter(None, recode.split(";")):
        column, _, pairs = part.rpartition(":")
        column, split = column.strip(), [pair.partition("=") for pair in pairs.split(",")]
        if not column or not all(sign for _, sign, _ in split):
            raise BuildError("--recode is not like 'COLUMN:OLD=NEW,OLD=NEW;COLUMN:OLD=NEW'.")
        key = str.casefold if column in ids else said
        values = {key(old.strip()): new.strip() for old, _, new in split}
        if column in columns or len(values) < len(split):
            what = f"says twice what a cell of {column!r} stands for"
            if column in columns:
                what = f"has the column {column!r} twice"
            raise BuildError(f"--recode {what}. Keep one, as in 'COLUMN:OLD=NEW,OLD=NEW'.")
        columns[column] = key, values
    return columns

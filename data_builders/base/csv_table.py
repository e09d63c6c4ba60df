"""Owners' CSV files: columns found by name, rows known by number, everything read as text.

Errors name file, row and column, never a cell's text: where columns have slid, or the header is
missing, it could be a patient's name. What a library says of a cell is not passed on either.
"""

import collections
import csv
import difflib
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.io.text import composed
from data_builders.base.records import BuildError

# The longest table, MIMIC's metadata, has 60 MB; a report takes some kB. A .gz may unfold to more.
MAX_CHARACTERS = 2_000_000_000
MAX_LINE = 1_000_000
# float() would read "2_000" and digits of other scripts too.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan", re.ASCII | re.IGNORECASE)
_ROUNDED = re.compile(r"\d([.,]\d+)?e\+\d+", re.ASCII | re.IGNORECASE)
FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


class Row(NamedTuple):
    """One row: its place ("labels.csv, row 17"; the header is row 1) and its fields."""

    where: str
    fields: list[str]


class Table:
    """A CSV file (or .csv.gz) at `path`, read row by row.

    `columns` are the header's names, stripped; trailing empty ones are dropped.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            collections.deque(self._lines(), maxlen=0)  # to the end: no row fails to decode later
            _, header = next(self._parsed(), (0, []))
        except UnicodeDecodeError:
            raise BuildError(f"{path} is not UTF-8 text. Save it as CSV in UTF-8.") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise BuildError(f"{path} is cut off, damaged, or not gzip. Get it again.") from None
        if not header:
            raise BuildError(f"{path} is empty; expected a header row.")
        self.columns = [composed(name.strip()) for name in header]
        # Names that are blank hold nothing; copies differ in how many end the header.
        self._widest = len(self.columns)
        while self.columns and not self.columns[-1]:
            self.columns.pop()

    def index(self, column: str) -> int:
        """Returns a column's place; BuildError if it is missing (with a hint) or there twice."""
        if self.columns.count(column) > 1:
            raise BuildError(f"{self.path} has the column {column!r} twice. Remove the wrong one.")
        if column in self.columns:
            return self.columns.index(column)
        hint = self.separator_hint() or self._near(column)
        raise BuildError(
            f"{self.path} has no column {column!r} among the {len(self.columns)} that its first "
            f"line, the header, names.{hint}"
        )

    def _near(self, column: str) -> str:
        """Hints at the column that could be meant, by name only where it is the same but for case
        and punctuation, since a table without a header has an image's values there."""
        if alike := self.alike(column):
            return f" Did you mean {alike[0]!r}?"
        folded = [name.casefold() for name in self.columns]
        close = difflib.get_close_matches(column.casefold(), folded, n=1, cutoff=0.5)
        return f" Is it column {folded.index(close[0]) + 1}, under another name?" if close else ""

    def alike(self, column: str) -> list[str]:
        """Returns the column, if it is there, else those that are it but for case and marks."""
        if column in self.columns:
            return [column]
        return [name for name in self.columns if _letters(name) == _letters(column)]

    def separator_hint(self) -> str:
        """Returns a hint for a table whose separators are not commas; else ""."""
        if len(self.columns) == 1:
            for separator, name in ((";", "semicolons"), ("\t", "tabs")):
                if separator in self.columns[0]:
                    return f" Its separators are {name}; save it with commas."
        return ""

    def rows(self, needed: Sequence[str], prose: Sequence[str] = ()) -> Iterator[Row]:
        """Yields the rows that are not blank, fields stripped and in composed Unicode.

        Args:
          needed: columns that the table must have.
          prose: columns, if there, whose fields may hold line breaks.

        Raises BuildError: no such column; a row with fewer or more fields than the header, or with
        a line break inside a field: its values could be another column's or another row's.
        """
        for column in needed:
            self.index(column)
        allowed = {place for place, column in enumerate(self.columns) if column in prose}
        name, columns = self.path.name, len(self.columns)
        parsed = self._parsed()
        next(parsed)
        for number, (line, row) in enumerate(parsed, start=2):
            fields = [composed(field.strip()) for field in row]
            if not any(fields):
                continue
            where = f"{name}, row {number}"
            if not columns <= len(fields) <= self._widest or any(fields[columns:]):
                raise BuildError(
                    f"{where} has {len(fields)} fields, the header {columns}: a comma without "
                    "quotes, or one that is missing, would move its values into other columns."
                )
            if line > number:  # only then can a field hold a line break
                self._refuse_breaks(row, allowed, where)
            yield Row(where, fields)

    def select(
        self, columns: Sequence[str], prose: Sequence[str] = (), optional: Sequence[str] = ()
    ) -> Iterator[Row]:
        """Yields the rows as `rows` does, with the fields of `columns` alone, in that order.

        Those of `optional` columns follow, "" where there is no such column.
        """
        last = len(self.columns)
        at = [self.index(name) for name in columns]
        at += [self.index(name) if name in self.columns else last for name in optional]
        for where, fields in self.rows(columns, prose):
            fields = [*fields[:last], ""]
            yield Row(where, [fields[place] for place in at])

    def _refuse_breaks(self, row: Sequence[str], allowed: set[int], where: str) -> None:
        for place, field in enumerate(row):
            if place not in allowed and ("\n" in field or "\r" in field):
                raise BuildError(
                    f"{where}: {self.columns[place]!r} holds a line break. A quotation mark too "
                    "many joins rows, and their values change places: mend the quotes."
                )

    def _lines(self) -> Iterator[str]:
        """Yields the lines, within bounds: csv would read one of any length."""
        length = 0
        opened = gzip.open if self.path.suffix == ".gz" else open
        with opened(self.path, "rt", encoding="utf-8-sig", newline="") as stream:
            while line := stream.readline(MAX_LINE + 1):
                length += len(line)
                if "\0" in line:
                    raise BuildError(f"{self.path} holds zero bytes: it is not text, or damaged.")
                if len(line) > MAX_LINE or length > MAX_CHARACTERS:
                    raise BuildError(
                        f"{self.path} has more than {MAX_LINE:,} characters in a line or more than "
                        f"{MAX_CHARACTERS:,} in all: not a table of images, or damaged."
                    )
                yield line

    def _parsed(self) -> Iterator[tuple[int, list[str]]]:
        """Yields each row with the number of its last line."""
        reader = csv.reader(self._lines(), strict=True)
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise BuildError(f"{self.path.name}, line {reader.line_num}: {error}.") from error


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def number(field: str) -> float | None:
    """Converts a field to a number; None if it is not one."""
    return float(field) if _NUMBER.fullmatch(field) else None


def numbers(fields: Sequence[str], names: str, where: str) -> list[float]:
    """Converts fields to numbers; BuildError, with the fields' `names`, if one is none."""
    found = [number(field) for field in fields]
    if None in found:
        verb = "are no numbers" if len(found) > 1 else "is not a number"
        raise BuildError(f"{where}: {names} {verb}.")
    return found


def refuse_rounded(identifier: str, name: str, where: str) -> None:
    """Raises BuildError for a number as spreadsheets save those of over 11 digits: 1.98001E+11."""
    if _ROUNDED.fullmatch(identifier):
        raise BuildError(
            f"{where}: {name} was rounded by a spreadsheet, which makes several of them one. Use "
            "the table as it was before, or save it with this column as text."
        )


def keep_one(known: dict[str, Any], key: str, what: str, row: Any) -> None:
    """Adds a row, which has a `where`, to `known`; BuildError if another has the key already."""
    if (first := known.setdefault(key, row)) is not row:
        raise BuildError(
            f"{row.where}: its {what} is listed twice, in {first.where} too. Keep one row."
        )


def flags(names: Sequence[str], values: Sequence[str], where: str) -> dict[str, float]:
    """Maps label names to 1.0 or 0.0, from a row's fields; BuildError for any other field."""
    for name, value in zip(names, values, strict=True):
        if value not in FLAGS:
            raise BuildError(f"{where}: {name!r} is neither 1 nor 0.")
    return {name: FLAGS[value] for name, value in zip(names, values)}

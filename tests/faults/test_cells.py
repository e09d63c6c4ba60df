"""A canary in every cell of every dataset's tables: no message and no entry of skipped.csv quotes a
cell; a built dataset holds nothing of columns that say nothing about images."""

import contextlib
import csv
import functools
import importlib
import io
import logging
import re
import shutil
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_builders import build
from data_builders.base import builder as cxr_builder
from data_builders.base import counts, records
from data_builders.base.records import BuildError
from tests.fakes import every, image_folder
from tests.fakes.dataset import read_text, write_text
from tests.faults import canaries
from tests.faults.canaries import ACCESSION, BIRTH, FREE, NAME

NEEDLES = canaries.needles()
# Of --full's plantings the short form tries one in so many, and builds these datasets alone.
ONE_IN = 40
BUILT = ("brax", "nih_chestxray14")
PLANTED = (NAME, ACCESSION, FREE, BIRTH)

_TABLES = (".csv", ".txt", ".TXT", ".gz", ".xml")
# An XML file's attributes and texts.
_VALUE = re.compile(r'(?<=")[^"<>\n]+(?=")|(?<=>)[^<>]*[^<>\s][^<>]*(?=<)')


class Layout(NamedTuple):
    """An arrangement of an owner's files on people's disks; `tables` are paths of its texts."""

    name: str
    raw: Path
    config: str
    options: dict[str, str]
    tables: tuple[Path, ...]


def layouts(folder: Path, full: bool) -> Iterator[Layout]:
    """Yields every layout of every fake (the first and Open-i's of Kaggle, unless `full`), and a
    folder with a CSV of labels; each is written when its turn comes."""
    for name in every.names():
        fake = importlib.import_module(f"tests.fakes.{name}")
        for number, (layout, arguments) in enumerate(fake.LAYOUTS.items()):
            if number and not full and (name, layout) != ("indiana_university", "kaggle"):
                continue
            raw = folder / f"{name}-{number}"
            raw.mkdir()
            fake.write(raw, **arguments)
            yield _layout(name, raw, layout.split()[0] if name == "medmnist_cxr" else "", {})
    raw = folder / "images"
    names = sorted(image_folder.write(raw))
    columns = {
        "patient_id": [f"m{number // 2}" for number in range(len(names))],
        "split": [("train", "validation", "test")[number // 2 % 3] for number in range(len(names))],
        **{column: ["7"] * len(names) for column in ("study_id", "view", "sex", "age")},
    }
    image_folder.write_labels(raw / "labels.csv", names, **columns)
    yield _layout("image_folder", raw, "", {"labels_csv": str(raw / "labels.csv")})


def _layout(name: str, raw: Path, config: str, options: dict[str, str]) -> Layout:
    texts = (path for path in sorted(raw.rglob("*")) if path.suffix in _TABLES and path.is_file())
    chosen: dict[tuple[str, str], Path] = {}
    for path in texts:  # of a dataset's hundred reports one stands for all
        alike = path.suffix in (".xml", ".txt") or name == "reflacx"
        kind = re.sub(r"\d+", "0", path.relative_to(raw).as_posix()) if alike else str(path)
        chosen.setdefault((path.suffix, kind), path)
    return Layout(name, raw, config, options, tuple(chosen.values()))


def plantings(path: Path, text: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yields what is done and where, and a function that does it and returns the table's text."""
    if path.suffix == ".xml":
        for number, match in enumerate(_VALUE.finditer(text)):
            for canary in PLANTED:
                start, end = match.span()
                yield f"value {number}", lambda a=start, b=end, c=canary: text[:a] + c + text[b:]
        return
    separator, rows = _rows(path, text)
    first, last = int(separator == ","), len(rows) - 1  # the other files have no header
    middle = (first + last) // 2
    kinds = (
        ("header", range(first), "{canary}"),
        ("first row", [min(first, last)], "{canary}"),
        ("last row", [last], "{canary}"),
        ("behind the cell of a row", [middle], "{cell}{canary}"),
        ("before the cell of a row", [middle], "{canary}{cell}"),
        ("within the name of a row", [middle], "{stem}{canary}{end}"),
        ("all rows alike", range(first, last + 1), "{canary}"),
        ("all rows", range(first, last + 1), "{canary} {row}"),
    )
    for column in range(max(map(len, rows))):
        for number, (what, places, made) in enumerate(kinds):
            # A number, which may pass for an id, and one of the others in turn.
            for canary in (BIRTH, PLANTED[(column + number) % 3]):
                planted = functools.partial(_planted, rows, column, places, made, canary)
                yield f"{what}, column {column + 1}", lambda f=planted: _joined(f(), separator)
    for canary in PLANTED if first else ():
        filled = [[f"{canary} {number}" for number in range(len(row))] for row in rows]
        yield "no header, canaries", lambda f=filled: _joined(f[1:], separator)
        yield "no header, one row", lambda f=filled: _joined(f[1:2] + rows[2:], separator)


def _planted(
    rows: list[list[str]], column: int, places: Sequence[int], made: str, canary: str
) -> list[list[str]]:
    changed = [list(row) for row in rows]
    for row in places:
        for cell in changed[row][column : column + 1]:
            stem, dot, end = cell.rpartition(".") if "." in cell else (cell, "", "")
            changed[row][column] = made.format(
                canary=canary, cell=cell, stem=stem, end=dot + end, row=row
            )
    return changed


def places(path: Path, text: str) -> range:
    """Returns the columns of a table, or the values of an XML file, by number."""
    if path.suffix == ".xml":
        return range(len(_VALUE.findall(text)))
    return range(max(map(len, _rows(path, text)[1])))


def filled(path: Path, text: str, chosen: Collection[int]) -> str:
    """Returns the text with canaries in all rows of the `chosen` places, or in these values of an
    XML."""
    if path.suffix == ".xml":
        number = iter(range(len(text)))
        return _VALUE.sub(lambda m: NAME if next(number) in chosen else m[0], text)
    separator, rows = _rows(path, text)
    below = range(separator == ",", len(rows))
    for column in chosen:
        rows = _planted(rows, column, below, f"{PLANTED[column % 3]} {BIRTH} {{row}}", "")
    return _joined(rows, separator)


def listing(layout: Layout, data: Path) -> cxr_builder.Listing:
    """Returns what a layout's tables list, as a build below the folder `data` would read them."""
    chosen = build.choose(layout.name, layout.raw, layout.config, layout.options)
    builder = chosen.builder(data_dir=data, config=chosen.config)
    builder.settings = cxr_builder.BuildSettings(num_workers=0, inputs=chosen.inputs)
    return builder.list_images(layout.raw)


def _rows(path: Path, text: str) -> tuple[str, list[list[str]]]:
    """What parts a table's fields, and its rows; a header is the first, if they are commas."""
    if path.suffix in (".csv", ".gz"):
        return ",", list(csv.reader(io.StringIO(text, newline="")))
    separator = "\t" if "\t" in text else " "
    return separator, [line.split(separator.strip() or None) for line in text.splitlines()]


def _joined(rows: list[list[str]], separator: str) -> str:
    if separator != ",":
        return "".join(separator.join(row) + "\n" for row in rows)
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def said_of(layout: Layout, data: Path) -> tuple[str, bool]:
    """All that is said when a layout is listed, and whether it was refused."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    refused = False
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            listed = listing(layout, data)
            skipped = [*listed.skipped, *records.absent(listed.records, layout.raw)]
            log.writelines(f"{entry.file} {entry.reason}\n" for entry in skipped)
    except BuildError as error:
        refused = True
        log.write("".join(traceback.format_exception(error)))
        log.writelines(repr(one.__dict__) + repr(one) for one in chain(error))
    finally:
        logging.getLogger().removeHandler(handler)
    return log.getvalue(), refused


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those it came from, hidden ones too."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_no_cell_of_a_table_is_quoted(tmp_path, full):
    number, tried, refused, tables, wrong = 0, 0, 0, 0, {}
    for layout in layouts(tmp_path, full):
        for table in layout.tables:
            content, text = table.read_bytes(), read_text(table)
            tables += 1
            for what, planted in plantings(table, text):
                number += 1
                if not full and number % ONE_IN:
                    continue
                if layout.name == "image_folder" and what.startswith("header"):
                    continue  # names of label columns are chosen by people, and said
                write_text(table, planted())
                tried += 1
                said, stopped = said_of(layout, tmp_path / "data")
                refused += stopped
                if found := canaries.search(said.encode(), NEEDLES):
                    where = f"{layout.name}, {table.name}, {what}: {sorted(found)}"
                    wrong.setdefault(said[-1500:], where)
            table.write_bytes(content)
        shutil.rmtree(layout.raw)
    print(f"{tried:,} plantings in {tables} tables, {refused:,} refused")
    assert not wrong, "\n\n".join(f"{where}\n{said}" for said, where in wrong.items())
    assert tables > (100 if full else 30) and refused > tried // 4 > 20


def kept(layout: Layout, data: Path) -> str:
    """What a dataset keeps of images by design: ids, reports, classes of boxes; "" where the tables
    are refused."""
    try:
        records = listing(layout, data).records
    except BuildError:
        return ""
    ids = [(one.image_id, one.patient_id, one.study_id, one.readers) for one in records]
    return repr((ids, [(one.report, sorted(box.label for box in one.boxes)) for one in records]))


def test_what_is_built_holds_nothing_of_other_columns(tmp_path, full):
    """Canaries in all columns at a time but ids, words that are kept, and what must be right."""
    planted = []
    for layout in layouts(tmp_path, full):
        if not layout.tables or (not full and layout.name not in BUILT):
            continue
        before, changed = kept(layout, tmp_path / "none"), 0
        for table in layout.tables:
            text, free = read_text(table), []
            for place in places(table, text):
                write_text(table, filled(table, text, (*free, place)))
                if kept(layout, tmp_path / "none") == before:
                    free.append(place)
            write_text(table, filled(table, text, free))
            changed += len(free)
        planted.append(changed)
        data, said = tmp_path / "data", io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            folder = build.build(
                layout.name,
                data,
                layout.raw,
                layout.config,
                layout.options,
                max_skipped=1.0,
                num_workers=0,
            )
            print(counts.describe_dataset(folder))
        assert canaries.search_files(data, NEEDLES) == [], layout
        assert canaries.search(said.getvalue().encode(), NEEDLES) == set(), layout
        shutil.rmtree(data)
        shutil.rmtree(layout.raw)
    print(f"{sum(planted)} columns and values of {len(planted)} layouts hold canaries")
    assert sum(planted) > (200 if full else 10)

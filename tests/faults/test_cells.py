"""A canary in every cell of every dataset's tables: what is said, or listed as skipped, quotes no
cell; what is built holds nothing of columns that say nothing of images."""

import contextlib
import io
import logging
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path

from data_builders import build
from data_builders.base import counts, records
from data_builders.base.records import BuildError
from tests.fakes.dataset import read_text, write_text
from tests.faults import canaries
from tests.faults.cells import Layout, filled, layouts, listing, places, plantings

NEEDLES = canaries.needles()
# Of --full's plantings the short form tries one in so many, and builds these datasets alone.
ONE_IN = 40
BUILT = ("brax", "nih_chestxray14")


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

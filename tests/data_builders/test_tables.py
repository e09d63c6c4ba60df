"""Owners' tables that are damaged so that values could change places: refused, with the row."""

import gzip

import pytest

from data_builders.base.csv_table import Table
from data_builders.base.records import BuildError


def read(path, needed=("image", "view", "label"), **options):
    return [row.fields for row in Table(path).rows(needed, **options)]


def write(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_line_end_and_byte_order_mark(tmp_path, ends, mark):
    text = mark + ends.join(["image,view,label", "a.png, PA ,1", "", '"b,c.png",AP,0', ""])
    assert read(write(tmp_path, text)) == [["a.png", "PA", "1"], ["b,c.png", "AP", "0"]]


BROKEN = {
    "a stray quote that joins three rows": (
        'image,view,label\na,"PA,0\nb,AP,0\nc,"PA",1\n',
        r"labels.csv, line \d: ",
    ),
    "a pair of stray quotes": (
        'image,view,label\na,"PA,0\nb,AP,0\nc,PA",1\n',
        r"row 2: 'view' holds a line break",
    ),
    "a quote that never closes": ('image,view,label\na,"PA,0\nb,AP,0\n', r"labels.csv, line \d"),
    "one comma too many, the last cell blank": (
        "image,view,label,other\na,PA,1,0\nb,,AP,1,\n",
        r"row 3 has 5 fields, the header 4",
    ),
    "one cell lost": ("image,view,label,other\na,1,0\n", r"row 2 has 3 fields, the header 4"),
    "a column twice": ("image,view,label,label\na,PA,1,0\n", "has the column 'label' twice"),
    "zero bytes": ("image,view,label\na\0,PA,1\n", "holds zero bytes"),
    "no rows at all": ("", "is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_could_move_values_is_refused(tmp_path, case):
    text, message = BROKEN[case]
    with pytest.raises(BuildError, match=message):
        read(write(tmp_path, text))


def test_a_line_break_is_allowed_in_prose_alone(tmp_path):
    path = write(tmp_path, 'image,view,label,report\na,PA,1,"two\nlines"\nb,AP,0,one\n')
    with pytest.raises(BuildError, match="'report' holds a line break"):
        read(path)
    rows = read(path, prose=("report", "not there"))
    assert rows == [["a", "PA", "1", "two\nlines"], ["b", "AP", "0", "one"]]


def test_a_trailing_comma_in_every_line_is_no_column(tmp_path):
    path = write(tmp_path, "image,view,label,,\na,PA,1,,\nb,AP,0\n")
    assert [fields[:3] for fields in read(path)] == [["a", "PA", "1"], ["b", "AP", "0"]]


def test_a_download_that_broke_off_is_named(tmp_path):
    whole = gzip.compress(("image,view,label\n" + "a,PA,1\n" * 10_000).encode())
    for damaged in (whole[: len(whole) // 2], whole[:40] + b"\xff" * 9 + whole[49:], b"no gzip"):
        path = write(tmp_path, damaged, "labels.csv.gz")
        with pytest.raises(
            BuildError, match=r"labels.csv.gz is cut off, damaged, or not gzip. Get it again"
        ):
            read(path)

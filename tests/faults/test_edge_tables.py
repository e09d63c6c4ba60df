"""Tables at their edges: empty, of one row, of very many, in every encoding that programs write."""

import csv
import gzip

import pytest
from PIL import Image

from data_builders.base.records import BuildError
from data_builders.image_folder.label_table import LabelTable
from tests.fakes.dataset import build_beside, by_image
from tests.fakes.pictures import draw_image
from tests.faults.limited import LimitedProcess

ROWS, ALL_ROWS = 5_000, 1_000_000
# Of a listed image: its row, its record and what tells them apart.
BYTES_A_ROW = 3_000


def build(raw, content, **options):
    (raw.parent / "labels.csv").write_bytes(content)
    options = {"labels_csv": str(raw.parent / "labels.csv"), **options}
    _, splits = build_beside("image_folder", raw, options=options)
    return by_image(splits)


@pytest.fixture
def one_image(raw):
    Image.fromarray(draw_image(1)).save(raw / "a.png")
    return raw


TEXT = "image,Nodule,split\r\na.png,1,train\r\n"
READ = {
    "one row": TEXT.encode(),
    "without a last line end": TEXT.strip().encode(),
    "byte-order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "LF": TEXT.replace("\r\n", "\n").encode(),
    "CR": TEXT.replace("\r\n", "\r").encode(),
    "blank lines": b"image,Nodule,split\n\n\n,,\na.png,1,train\n\n",
    "quoted": b'"image","Nodule","split"\n"a.png","1","train"\n',
    "spaces": b"image , Nodule,split\n a.png , 1 ,train\n",
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read_right(one_image, case):
    example = build(one_image, READ[case])["a"]
    assert example["labels"] == {"Nodule": 1.0} and example["split"] == "train"


REFUSED = {
    "empty": (b"", "is empty; expected a header row"),
    "a byte-order mark alone": (b"\xef\xbb\xbf", "is empty; expected a header row"),
    "a blank line alone": (b"\r\n", "is empty; expected a header row"),
    "blank lines first": (b"\n\n" + TEXT.encode(), "is empty; expected a header row"),
    "a header alone": (b"image,Nodule\n", "No row of .* names an image of the folder"),
    "UTF-16": (TEXT.encode("utf-16"), "is not UTF-8 text. Save it as CSV in UTF-8"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "holds zero bytes"),
    "UTF-32": (TEXT.encode("utf-32-le"), "holds zero bytes"),
    "Latin-1": (TEXT.replace("Nodule", "Übel").encode("latin-1"), "is not UTF-8 text"),
    "zero bytes in the header": (b"image,Nod\0ule\na.png,1\n", "holds zero bytes"),
    "zero bytes far down": (TEXT.encode() * 2_000 + b"a\0.png,1,train\n", "holds zero bytes"),
    "a quote that never closes": (
        b'image,Nodule\n"a.png,1\n',
        "labels.csv, line 2: unexpected end",
    ),
    "text behind a quote": (b'image,Nodule\n"a.png"x,1\n', "labels.csv, line 2: ',' expected"),
    "a field of 1 MB": (b"image,Nodule\n" + b"a" * 900_000 + b",1\n", "field larger than field"),
    "a line of 2 MB": (b"image,Nodule\n" + b"a" * 2_000_000 + b",1\n", "characters in a line"),
    "a label of pages": (b"image,Nodule\na.png," + b"1" * 9_000 + b"\n", "is neither 1 "),
    "duplicate ids": (TEXT.encode() + b"a.png,0,test\n", "row 2 and labels.csv, row 3. Keep one"),
    "one image under two names": (TEXT.encode() + b"a,0,train\n", "row 2 and labels.csv, row 3"),
    "under a path of detours": (TEXT.encode() + b"x/../a.png,0,train\n", "row 2 and labels"),
    "semicolons": (b"image;Nodule\na.png;1\n", "Its separators are semicolons"),
    "tabs": (b"image\tNodule\na.png\t1\n", "Its separators are tabs"),
    "a thousand columns, none right": (
        ",".join(f"column {i}" for i in range(1_000)).encode() + b"\n",
        "its first line holds none of the columns image",
    ),
    "escapes of a terminal": (b"image,\x1b[2JNodule\na.png,9\n", r"column '\\x1b\[2JNodule'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(one_image, case):
    content, message = REFUSED[case]
    with pytest.raises(BuildError, match=message) as error:
        build(one_image, content)
    assert len(str(error.value)) < 2_000


def write_many(path, count):
    with gzip.open(path, "wt", newline="", compresslevel=1) as file:
        writer = csv.writer(file)
        writer.writerow(("image", "patient_id", "age", "sex", "Nodule", "Mass"))
        writer.writerows(
            (f"p{i % 1000}/{i}.png", f"m{i // 3}", 50, "F", i % 2, "") for i in range(count)
        )


def match_many(path, count):
    """The table's rows against a folder that has every other image."""
    found = {f"p{i % 1000}/{i}.png": path for i in range(0, count, 2)}
    rows = LabelTable(path, "image", None).match(found)
    return len(rows), sum(row.labels["Nodule"] for row in rows.values()), rows["p7/7.png"].where


def test_a_table_of_very_many_rows(tmp_path, full):
    count = ALL_ROWS if full else ROWS
    write_many(tmp_path / "labels.csv.gz", count)
    process = LimitedProcess((__name__,), BYTES_A_ROW * count + (64 << 20))
    answer = process.ask(match_many, tmp_path / "labels.csv.gz", count)
    process.close()
    assert answer.result == (count, count / 2, "labels.csv.gz, row 9"), answer.error

"""Tables and links that would reach outside of the folder that was given."""

import csv
import os
import socket

import pytest
from PIL import Image

from data_builders import build
from data_builders.base.records import BuildError
from tests.fakes import every, image_folder
from tests.fakes.dataset import build_beside, by_image, edit, read_text, skipped_of
from tests.fakes.pictures import draw_image


@pytest.fixture
def secret(tmp_path):
    """An image that lies beside the dataset's folder."""
    path = tmp_path / "secret/hidden.png"
    path.parent.mkdir()
    Image.fromarray(draw_image(99)).save(path)
    return path


def listing(dataset, raw, **options):
    chosen = build.choose(dataset, raw, None, options)
    builder = chosen.builder(data_dir=raw.parent / "data", config=chosen.config)
    builder.settings = type(builder.settings)(num_workers=0, inputs=chosen.inputs)
    return builder.list_images(raw)


OUTSIDE = {
    "up": "../secret/hidden.png",
    "up within": "png/../../secret/hidden.png",
    "absolute": "{secret}",
    "backslashes": "..\\secret\\hidden.png",
    "a drive": "C:\\secret\\hidden.png",
    "without suffix": "../secret/hidden",
    "nothing": "",
    "the folder itself": "..",
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_row_of_ones_own_table_cannot_name_an_image_outside(tmp_path, raw, secret, case):
    name = OUTSIDE[case].format(secret=secret)
    Image.fromarray(draw_image(1)).save(raw / "a.png")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "Nodule"), ("a.png", "1"), (name, "1")])
    with pytest.raises(BuildError, match=r"labels.csv, row 3: image is not a path inside"):
        listing("image_folder", raw, labels_csv=str(tmp_path / "labels.csv"))


def test_odd_names_are_listed_and_open_nothing(tmp_path, raw, secret):
    Image.fromarray(draw_image(1)).save(raw / "a.png")
    names = [
        "a.png",
        "…/hidden.png",
        "~/hidden.png",
        "$HOME/hidden.png",
        "a.png/../b.png",
        "x" * 300,
    ]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [(name, "1", "train") for name in names]
        csv.writer(file).writerows([("image", "Nodule", "split"), *rows])
    folder, splits = build_beside(
        "image_folder", raw, options={"labels_csv": str(tmp_path / "labels.csv")}
    )
    assert by_image(splits).keys() == {"a"}
    assert set(skipped_of(folder, parts=9).values()) == {"its image is not a file of the folder"}
    assert len(skipped_of(folder, parts=9)) == len(names) - 1


@pytest.mark.parametrize("cell", ["a\0.png", "a\n.png", '"a\n.png"', "a\r.png"])
def test_zero_bytes_and_line_breaks_in_names_are_refused(tmp_path, raw, cell):
    Image.fromarray(draw_image(1)).save(raw / "a.png")
    (tmp_path / "labels.csv").write_text(f"image,Nodule\na.png,1\n{cell},0\n")
    with pytest.raises(BuildError, match=r"zero bytes|has 1 fields|holds a line break"):
        listing("image_folder", raw, labels_csv=str(tmp_path / "labels.csv"))


def test_no_owners_table_can_name_an_image_outside(tmp_path, full):
    """In every table of every dataset, every cell of a row in turn climbs out of the folder (of
    twenty cells one, unless --full)."""
    tried = 0
    for name in every.names():
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        every.write(name, raw)
        for table in sorted(raw.rglob("*.csv")):
            text = table.read_bytes()
            rows = list(csv.reader(text.decode("utf-8-sig").splitlines()))
            for column in range(len(rows[-1])):
                tried += 1
                if not full and tried % 20:
                    continue
                climbing = [*rows[:-1], list(rows[-1])]
                climbing[-1][column] = "../" * 12 + "etc/passwd"
                with table.open("w", newline="") as file:
                    csv.writer(file).writerows(climbing)
                try:
                    images = [record.image for record in listing(name, raw).records]
                except BuildError:
                    continue
                for place in images:
                    place = getattr(place, "path", place)
                    within = callable(place) or os.path.realpath(place).startswith(f"{raw}/")
                    assert within, (table, column)
            table.write_bytes(text)
    assert tried > 100


def test_mimics_table_is_refused_by_row(raw):
    every.write("mimic_cxr", raw)
    (metadata,) = raw.rglob("*metadata.csv*")
    dicom_id = read_text(metadata).splitlines()[1].split(",")[0]
    for table in (metadata, *raw.rglob("*split.csv*")):
        edit(table, dicom_id, "../../../../../secret")
    with pytest.raises(BuildError, match=r"row 2: its image is not inside"):
        listing("mimic_cxr", raw)


def link_tree(raw, secret):
    """An image, and links: to an image outside, to a folder outside, within, to itself."""
    Image.fromarray(draw_image(1)).save(raw / "own.png")
    (raw / "image.png").symlink_to(secret)
    (raw / "folder").symlink_to(secret.parent)
    (raw / "within.png").symlink_to("own.png")
    (raw / "itself.png").symlink_to("itself.png")


def test_links_that_lead_out_are_skipped_and_listed(raw, secret):
    link_tree(raw, secret)
    folder, splits = build_beside("image_folder", raw)
    assert by_image(splits).keys() == {"own", "within"}
    skipped = skipped_of(folder, parts=2)
    assert skipped.keys() == {"image.png", "folder/hidden.png", "itself.png"}
    for name in ("image.png", "folder/hidden.png"):
        assert "leads out of its folder (--follow_links" in skipped[name]


def test_ones_own_links_are_followed_on_request(raw, secret):
    link_tree(raw, secret)
    _, splits = build_beside("image_folder", raw, follow_links=True)
    assert by_image(splits).keys() == {"own", "within", "image", "folder/hidden"}


def test_a_folder_of_links_alone_says_how_to_allow_them(raw, secret):
    (raw / "image.png").symlink_to(secret)
    with pytest.raises(BuildError, match="allow them with --follow_links"):
        listing("image_folder", raw)


def test_the_folder_itself_may_be_a_link(tmp_path, raw, secret):
    Image.fromarray(draw_image(1)).save(raw / "own.png")
    (tmp_path / "link").symlink_to(raw)
    assert len(listing("image_folder", tmp_path / "link").records) == 1


def test_pipes_sockets_and_devices_are_not_waited_for(raw):
    Image.fromarray(draw_image(1)).save(raw / "own.png")
    os.mkfifo(raw / "pipe.dcm")
    (raw / "zeros.dcm").symlink_to("/dev/zero")
    (raw / "led.dcm").symlink_to("pipe.dcm")
    here = os.getcwd()
    os.chdir(raw)  # a socket's path has 100 characters at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.dcm")
            folder, splits = build_beside("image_folder", raw, follow_links=True)
    finally:
        os.chdir(here)
    assert by_image(splits).keys() == {"own"}
    assert skipped_of(folder) == dict.fromkeys(
        ("zeros.dcm", "led.dcm"), "a folder, a pipe or a device, expected a file"
    )


def test_a_data_folder_named_by_a_strangers_name_is_refused(raw):
    image_folder.write(raw / "images")
    for name in ("../x", "a/b", ".", "/tmp/x"):
        with pytest.raises(BuildError, match="begins with a letter"):
            listing("image_folder", raw, name=name)

"""JSRT from its raw layouts to what a reader sees."""

import csv

import numpy as np
import pytest

from data_builders.film_error import FilmError
from data_builders.jsrt.img_film import ImgFilm
from data_builders.records import BuildError
from tests.fakes import jsrt as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("jsrt", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **fake.LAYOUTS[request.param])
    return films, *build(raw, data)


def test_pixels_labels_and_ids_belong_together(built):
    films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, image_id
        labels = [example["labels"]["Nodule"], example["labels"]["Malignant"]]
        np.testing.assert_array_equal(labels, [film.nodule, film.malignant])
        assert (example["patient_id"], example["view"]) == (image_id, "PA")
        assert example["sex"] == film.sex
        np.testing.assert_array_equal(example["age"], film.age)


def test_the_box_is_as_wide_as_the_nodule_around_its_centre(built):
    films, _, splits = built
    for image_id, example in by_image(splits).items():
        boxes, box = example["boxes"], films[image_id].box
        corners = np.transpose([boxes[side] for side in ("y0", "x0", "y1", "x1")])
        np.testing.assert_allclose(corners, [box] if box else np.zeros((0, 4)), atol=1e-6)
        assert [label.decode() for label in boxes["label"]] == (["Nodule"] if box else [])


def test_no_patient_is_in_two_splits(built):
    _, _, splits = built
    patients = [{e["patient_id"] for e in examples} for examples in splits.values()]
    assert len(patients) == 3
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_what_gives_no_example_is_listed(built):
    _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {
            row["file"].split("/")[-1].upper().removesuffix(".IMG"): row["reason"]
            for row in csv.DictReader(stream)
        }
    expected = {
        fake.CUT_OFF: "8,092 bytes, expected 8,388,608",
        fake.SWAPPED: "beyond 12 bits",
        fake.WITHOUT_FILE: "no such file",
        fake.WITHOUT_ROW: "no row in CLNDAT_EN.txt or CNNDAT_EN.TXT",
    }
    assert skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in skipped[name]


def test_the_real_size_is_read_and_others_are_not(tmp_path):
    path = tmp_path / "JPCLN001.IMG"
    stored = np.full((2048, 2048), 4000, ">u2")
    stored[100, 200] = 95
    path.write_bytes(stored.tobytes())
    picture = ImgFilm(path)()
    assert picture.shape == (2048, 2048, 1)
    assert picture[100, 200, 0] == 255
    assert picture.sum() == 255
    path.write_bytes(bytes(2 * 60 * 60))  # a square, but no half of 2048
    with pytest.raises(FilmError, match="7,200 bytes"):
        ImgFilm(path)()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("CLNDAT_EN.txt", "malignant", "malign", r"CLNDAT_EN.txt, row 3: 'malign' is neither"),
        ("CLNDAT_EN.txt", "\tbenign", "", r"row 1: 'r.lower lobe' is neither malignant nor"),
        ("CLNDAT_EN.txt", "JPCLN002.IMG", "JPCNN002.IMG", r"row 2: 'JPCNN002.IMG' is no file"),
        ("CLNDAT_EN.txt", "JPCLN002.IMG", "JPCLN001.IMG", r"'JPCLN001' is listed twice: .*row 2"),
        ("CLNDAT_EN.txt", "1001", "2049", r"row 1: a nodule of 14 mm at \(2049, 502\) is not on"),
        ("CLNDAT_EN.txt", "1001", "left", r"row 1: x is 'left', expected a number"),
        ("CLNDAT_EN.txt", "female", "woman", r"row 1: sex is 'woman'"),
        ("CNNDAT_EN.TXT", "41", "old", r"CNNDAT_EN.TXT, row 1: age is 'old'"),
        ("CNNDAT_EN.TXT", "non-nodule", "nodule", r"CNNDAT_EN.TXT, row 1: .* 'non-nodule'"),
    ],
)
def test_errors_in_the_owners_tables_stop_the_build(tmp_path, file, old, new, message):
    raw = tmp_path / "raw"
    fake.write(raw)
    path = raw / "Clinical_Information" / file
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")


def test_a_missing_table_is_named(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw)
    (raw / "Clinical_Information/CNNDAT_EN.TXT").unlink()
    with pytest.raises(BuildError, match=r"holds no CNNDAT_EN.TXT. Register at"):
        build(raw, tmp_path / "data")

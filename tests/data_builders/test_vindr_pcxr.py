"""VinDr-PCXR from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from data_builders.records import BuildError
from tests.fakes import vindr_pcxr as fake
from tests.fakes.dataset import build_and_read, by_image
from tests.fakes.read_back import boxes_of, rounded, skipped_of


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **fake.LAYOUTS[request.param])
    return films, *build_and_read("vindr_pcxr", data, manual_dir=raw)


def test_pixels_labels_boxes_and_ids_belong_together(built):
    films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        assert np.abs(example["image"][..., 0].astype(int) - film.picture).mean() < 2, image_id
        assert example["labels"] == {name: float(name in film.positive) for name in fake.LABELS}
        assert boxes_of(example) == rounded(film.boxes)
        assert (example["patient_id"], example["view"]) == (image_id, film.view)
        assert example["sex"] == film.sex
        np.testing.assert_equal(example["age"], np.float32(film.age))
        assert (example["split"] == "test") == (film.part == "test")
    assert splits.keys() == {"train", "validation", "test"}


def test_what_does_not_fit_together_is_listed(built):
    _, folder, _ = built
    skipped = {name.split(".")[0]: reason for name, reason in skipped_of(folder).items()}
    assert skipped.keys() == {fake.NO_PIXELS, fake.ROW_WITHOUT_FILE, fake.FILE_WITHOUT_ROW}
    assert skipped[fake.ROW_WITHOUT_FILE] == "no such file"
    assert skipped[fake.FILE_WITHOUT_ROW].startswith("no row in image_labels_test.csv")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("image_labels_train.csv", "Brocho", "Broncho", "no column 'Brocho-pneumonia'. Did you"),
        ("image_labels_train.csv", ",1,0,", ",2,0,", r"train.csv, row 2: 'No finding' holds '2'"),
        (
            "image_labels_train.csv",
            fake.image_id(1),
            fake.image_id(0),
            r"is listed twice: image_labels_train.csv, row 2 and .*row 3",
        ),
        (
            "image_labels_test.csv",
            fake.image_id(26),
            fake.image_id(0),
            r"is listed twice: image_labels_train.csv, row 2 and image_labels_test.csv, row 2",
        ),
        ("annotations_test.csv", "x_min", "left", "annotations_test.csv has no column 'x_min'"),
        ("annotations_train.csv", ",6.0,", ",,", r"row 3: the box's corners are \['', '9.0'"),
        ("annotations_train.csv", ",,,,", ",1,2,3,4", r"row 2: 'No finding' has a box"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, file, old, new, message):
    fake.write(tmp_path / "raw")
    path = tmp_path / "raw" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build_and_read("vindr_pcxr", tmp_path / "data", manual_dir=tmp_path / "raw")


def test_a_missing_table_is_named(tmp_path):
    fake.write(tmp_path / "raw")
    (tmp_path / "raw" / "image_labels_test.csv").unlink()
    with pytest.raises(BuildError, match=r"image_labels_test.csv is missing"):
        build_and_read("vindr_pcxr", tmp_path / "data", manual_dir=tmp_path / "raw")

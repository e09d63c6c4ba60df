"""VinDr-PCXR from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from tests.fakes import vindr_pcxr as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    boxes_of,
    build_layout,
    edit,
    rounded,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("vindr_pcxr", fake, request.param, tmp_path_factory.mktemp("vindr_pcxr"))


def test_pixels_labels_boxes_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        assert example["labels"] == {name: float(name in image.positive) for name in fake.LABELS}
        assert boxes_of(example) == rounded(image.boxes)
        assert (example["patient_id"], example["projection"]) == (image_id, image.projection)
        assert example["sex"] == image.sex
        np.testing.assert_equal(example["age"], np.float32(image.age))
        assert (example["split"] == "test") == (image.part == "test")
    assert built.splits.keys() == {"train", "validation", "test"}


def test_what_does_not_fit_together_is_listed(built):
    expected = {
        fake.NO_PIXELS: "",
        fake.FILE_WITHOUT_ROW: "^no row in image_labels_test.csv",
    }
    skipped = skipped_of(built.folder)
    row = row_of(built.raw, "image_labels_train.csv", fake.ROW_WITHOUT_FILE)
    assert skipped.pop(row) == "no such file"
    assert_reasons({name.split(".")[0]: reason for name, reason in skipped.items()}, expected)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "image_labels_train.csv",
            "Brocho",
            "Broncho",
            "no column 'Brocho-pneumonia' .* Is it column 5,",
        ),
        ("image_labels_train.csv", ",1,0,", ",2,0,", r"row 2: 'No finding' is neither 1 nor 0"),
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
        ("annotations_train.csv", ",6.0,", ",,", "row 3: the box's corners are no numbers"),
        ("annotations_train.csv", ",,,,", ",1,2,3,4", r"row 2: 'No finding' has a box"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / file, old, new)
    assert_build_stops("vindr_pcxr", raw, message)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            fake.image_id(0),
            r"24 of the 24 boxes .* of findings .* first is annotations_train.csv, row 3\.",
        ),
        ("stranger", "24 of the 24 boxes .* on images that no table lists; .*csv, row 3"),
    ],
)
def test_boxes_on_images_that_have_none_stop_the_build(raw, image, message):
    fake.write(raw)
    path = raw / "annotations_train.csv"
    header, *lines = path.read_text().splitlines()
    moved = [line if ",,,," in line else f"{image},{line.partition(',')[2]}" for line in lines]
    path.write_text("\n".join([header, *moved]))
    assert_build_stops("vindr_pcxr", raw, message)


def test_a_missing_table_is_named(raw):
    fake.write(raw)
    (raw / "image_labels_test.csv").unlink()
    assert_build_stops("vindr_pcxr", raw, r"image_labels_test.csv is missing")

"""CheXpert from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from tests.fakes import chexpert as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    build_layout,
    edit,
    patients_of,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("chexpert", fake, request.param, tmp_path_factory.mktemp("chexpert"))


def test_pixels_labels_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        expected = {name: float(cell or "nan") for name, cell in image.labels.items()}
        np.testing.assert_equal({k: float(v) for k, v in example["labels"].items()}, expected)
        assert example["patient_id"] == image_id.split("/")[0]
        assert example["study_id"] == "/".join(image_id.split("/")[:2])
        said = (example["split"], example["projection"], example["sex"])
        assert said == (image.split, image.projection, image.sex), image_id
        np.testing.assert_equal(float(example["age"]), image.age)


def test_valid_is_validation_and_test_is_there_only_with_its_images(built):
    patients = patients_of(built.splits)
    with_test = {"test"} if "test" in built.layout else set()
    assert patients.keys() == {"train", "validation"} | with_test
    assert patients["validation"] == {f"patient{number}" for number in fake.VALID_PATIENTS}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values()))


def test_what_does_not_fit_together_is_listed(built):
    expected = {
        f"{fake.CORRUPT}.jpg": "",
        f"{fake.FILE_WITHOUT_ROW}.jpg": "no row in ",
    }
    skipped = skipped_of(built.folder, parts=3)
    row = row_of(built.raw, "train.csv", fake.ROW_WITHOUT_FILE)
    assert skipped.pop(row) == "no such file"
    if built.layout.get("test") == "studies":
        row = row_of(built.raw, "groundtruth.csv", fake.STUDY_WITHOUT_IMAGE)
        assert skipped.pop(row) == "a study without an image"
    assert_reasons(skipped, expected)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.csv", ",-1.0,", ",-2.0,", r"train.csv, row \d+: .* is neither 1, 0, -1"),
        ("train.csv", "Lung Lesion", "Lung lesions", "no column 'Lung Lesion' .* Is it column 10,"),
        ("train.csv", ",Lateral,", ",Frontal,", r"row 3: Frontal/Lateral does not fit Path"),
        ("train.csv", "/train/", "/valid/", "row 2: its path is not an image of train"),
        ("train.csv", "view2_lateral", "view1_frontal", "row 3: Frontal/Lateral does not fit Path"),
        ("train.csv", "study2/view1", "study1/view1", "listed twice: train.csv, row 2 and"),
        ("train.csv", ",Frontal,AP", ",Frontal", r"train.csv, row \d+ has 18 fields"),
        ("train.csv", "Female,2", "Female,x2", "row 3: Age is not a number"),
        (
            "valid.csv",
            "patient64541/study1/view1",
            "patient00001/study1/view9",
            "1 patient stands in two splits",
        ),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / "CheXpert-v1.0-small" / file, old, new)
    assert_build_stops("chexpert", raw, message)


def test_missing_table_is_named(raw):
    fake.write(raw)
    (raw / "CheXpert-v1.0-small" / "train.csv").unlink()
    assert_build_stops("chexpert", raw, r"holds no train.csv. Register at")


def test_full_and_small_release_in_one_folder_are_refused(raw):
    fake.write(raw)
    fake.write(raw, release="CheXpert-v1.0")
    assert_build_stops("chexpert", raw, "two releases")

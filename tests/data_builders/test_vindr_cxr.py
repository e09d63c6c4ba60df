"""VinDr-CXR from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from data_builders import splits as split_rule
from data_builders.records import BuildError
from tests.fakes import vindr_cxr as fake
from tests.fakes.dataset import build_and_read, by_image
from tests.fakes.read_back import boxes_of, rounded, skipped_of


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **fake.LAYOUTS[request.param])
    return request.param, films, *build_and_read("vindr_cxr", data, manual_dir=raw)


def test_pixels_boxes_and_every_readers_labels_belong_together(built):
    _, films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        assert np.abs(example["image"][..., 0].astype(int) - film.picture).mean() < 2, image_id
        assert [reader.decode() for reader in example["readers"]] == film.readers
        assert example["labels"].keys() == film.labels.keys()
        for name, values in film.labels.items():
            np.testing.assert_equal(list(example["labels"][name]), np.float32(values))
        assert sorted(boxes_of(example)) == sorted(rounded(film.boxes))
        assert (example["patient_id"], example["view"]) == (image_id, "PA")
        assert example["sex"] == film.sex
        np.testing.assert_equal(example["age"], np.float32(film.age))
    disputed = [e for e in examples.values() if len(set(e["labels"]["No finding"])) == 2]
    assert disputed and any(len(boxes_of(e)) > 2 for e in examples.values())


def test_the_owners_test_is_kept_and_kaggle_is_split_by_film(built):
    layout, films, _, splits = built
    assert splits.keys() == {"train", "validation", "test"}
    for image_id, example in by_image(splits).items():
        if layout == "kaggle":
            assert example["split"] == split_rule.by_patient(image_id)
        else:
            assert (example["split"] == "test") == (films[image_id].part == "test")


def test_what_does_not_fit_together_is_listed(built):
    layout, _, folder, _ = built
    skipped = {name.split(".")[0]: reason for name, reason in skipped_of(folder).items()}
    expected = {fake.NO_PIXELS, fake.ROW_WITHOUT_FILE}
    # Kaggle's test films have no labels, so a film too many is one of them.
    expected |= set() if layout == "kaggle" else {fake.FILE_WITHOUT_ROW}
    assert skipped.keys() == expected
    assert skipped[fake.ROW_WITHOUT_FILE] == "no such file"


TRAIN, TEST = "annotations/image_labels_train.csv", "annotations/image_labels_test.csv"
BOXES = "annotations/annotations_train.csv"
FIRST, SECOND = fake.readers_of(0)[:2]


@pytest.mark.parametrize(
    ("layout", "file", "old", "new", "message"),
    [
        ("physionet", TRAIN, "Nodule/Mass", "Nodule", "no column 'Nodule/Mass'"),
        ("physionet", TRAIN, "rad_id", "rad_ID", "no column 'rad_id'. Did you mean 'rad_ID'"),
        ("physionet", TRAIN, ",0,1\n", ",,1\n", r"train.csv, row \d+: 'Other diseases' holds ''"),
        ("physionet", TRAIN, f"{FIRST},", f"{SECOND},", r"has the readers .*row \d+.*expected 3"),
        ("physionet", TRAIN, fake.image_id(0), fake.image_id(1), r"has the readers .*expected 3"),
        ("physionet", TEST, fake.image_id(29), fake.image_id(28), r"'consensus'\] .*expected 1"),
        ("physionet", TEST, fake.image_id(28), fake.image_id(0), r"is listed twice: .*test.csv"),
        ("physionet", BOXES, "No finding", "Nothing", r"train.csv, row \d+: class_name 'Nothing'"),
        ("physionet", BOXES, ",,,,", ",1,2,3,4", r"train.csv, row \d+: 'No finding' has a box"),
        ("physionet", BOXES, ",9.0,", ",,", r"row \d+: the box's corners are \['15.0', ''"),
        ("physionet", BOXES, ",9.0,", ",nan,", r"row \d+: the box's corners are"),
        ("physionet", BOXES, "15.0,9.0,45.0", "45.0,9.0,15.0", r"row \d+: .* are no box's x0"),
        ("kaggle", "train.csv", "No finding", "COPD", r"train.csv, row 2: class_name 'COPD'"),
        ("kaggle", "train.csv", "R1,", "R6,", r"has the readers .*expected 3"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, layout, file, old, new, message):
    fake.write(tmp_path / "raw", **fake.LAYOUTS[layout])
    path = tmp_path / "raw" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build_and_read("vindr_cxr", tmp_path / "data", manual_dir=tmp_path / "raw")


def test_a_reader_who_found_something_and_nothing_stops_the_build(tmp_path):
    fake.write(tmp_path / "raw", kaggle=True)
    path = tmp_path / "raw" / "train.csv"
    lines = path.read_text().splitlines()
    nothing = next(line for line in lines if "No finding" in line)
    found = nothing.replace("No finding,14", "ILD,5").replace(",,,,", ",1,2,3,4")
    path.write_text("\n".join([*lines, found]))
    with pytest.raises(BuildError, match=r"train.csv, row \d+: reader R\d+ found \['ILD', 'No f"):
        build_and_read("vindr_cxr", tmp_path / "data", manual_dir=tmp_path / "raw")

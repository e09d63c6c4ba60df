"""RANZCR CLiP from its raw layouts to what a reader sees."""

import pytest

from data_builders import splits as split_rule
from tests.fakes import ranzcr_clip as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    boxes_of,
    build_layout,
    edit,
    patients_of,
    rounded,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("ranzcr_clip", fake, request.param, tmp_path_factory.mktemp("ranzcr_clip"))


def test_pixels_labels_ids_and_lines_belong_together(built):
    for image_id, film, example in built.paired():
        assert example["labels"] == {label: float(label in film.positive) for label in fake.LABELS}
        assert (example["patient_id"], example["study_id"]) == (film.patient, image_id)
        assert boxes_of(example) == rounded(film.boxes)


def test_patients_are_kept_as_text_and_in_one_split(built):
    patients = patients_of(built.splits)
    assert {"12e456789", "000000012"} <= set.union(*patients.values())
    assert patients.keys() == {"train", "validation", "test"}
    for split, ids in patients.items():
        assert {split_rule.by_patient(patient) for patient in ids} == {split}


def test_what_gives_no_example_is_listed_and_the_hold_out_is_not(built):
    expected = {
        fake.TRUNCATED: "",
        fake.ROW_WITHOUT_FILE: "^no such file$",
        fake.FILE_WITHOUT_ROW: "no row in train.csv",
    }
    skipped = skipped_of(built.folder)
    assert_reasons({name[:-4]: reason for name, reason in skipped.items()}, expected)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.csv", "CVC - Normal", "CVC-Normal", "no column 'CVC - Normal'. .*CVC-Normal"),
        ("train.csv", "12e456789", "1.2e+13", r"train.csv, row 2: PatientID '1.2e\+13' has not"),
        ("train.csv", "000000012", "12", r"train.csv, row 4: PatientID '12' has not nine"),
        ("train.csv", ",0,0,0", ",0,,0", r"row 2: 'ETT - Borderline' holds '', expected 1 or 0"),
        ("train.csv", ",0,0,0", ",0,-1,0", r"row 2: 'ETT - Borderline' holds '-1'"),
        ("train.csv", fake.uid(5), fake.uid(6), r"is listed twice: train.csv, row 7 and .*row 8"),
        ("train_annotations.csv", "CVC - N", "CVC - n", "csv, row 2: .*'CVC - normal' is unknown"),
        ("train_annotations.csv", "[16, 20]", "[16]", r"csv, row 2: data '\[\[16\].* is no list"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / file, old, new)
    assert_build_stops("ranzcr_clip", raw, message)

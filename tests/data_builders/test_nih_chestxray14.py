"""NIH ChestX-ray14 from its raw layouts to what a reader sees."""

import json

import numpy as np
import pytest

from data_builders.nih_chestxray14.nih_chestxray14_dataset_builder import NIH_FINDINGS
from tests.fakes import nih_chestxray14 as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    boxes_of,
    build_beside,
    build_layout,
    by_image,
    edit,
    patients_of,
    positives,
    rounded,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout(
        "nih_chestxray14", fake, request.param, tmp_path_factory.mktemp("nih_chestxray14")
    )


def test_pixels_labels_and_ids_belong_together(built):
    for _, image, example in built.paired():
        assert positives(example) == set(image.findings.split("|"))
        assert example["labels"].keys() == {*NIH_FINDINGS, "No Finding"}
        assert example["patient_id"] == str(image.patient)
        assert (example["split"] == "test") == image.test
    first = built.examples["00000001_000"]
    assert (first["age"], first["sex"], first["projection"]) == (21.0, "F", "PA")
    assert np.isnan(built.examples[fake.IMPOSSIBLE_AGE.removesuffix(".png")]["age"])


def test_validation_is_carved_from_train_by_patient(built):
    patients = patients_of(built.splits)
    assert not patients["train"] & patients["validation"]
    assert 0 < len(patients["validation"]) < len(patients["train"])


def test_boxes_are_fractions_under_the_labels_name(built):
    expected = [("Infiltration", 0.125, 0.25, 0.1875, 0.75), ("Mass", 0, 0, 0.2, 0.1)]
    assert boxes_of(built.examples["00000001_000"]) == rounded(expected)
    assert boxes_of(built.examples["00000001_001"]) == []


def test_what_does_not_fit_together_is_listed(built):
    expected = {
        fake.CORRUPT: "",
        fake.FILE_WITHOUT_ROW: "no row in Data_Entry",
    }
    skipped = skipped_of(built.folder)
    row = row_of(built.raw, "Data_Entry_2017", fake.ROW_WITHOUT_FILE)
    assert skipped.pop(row) == "no such file"
    assert_reasons(skipped, expected)
    assert json.loads((built.folder / "metadata.json").read_text())["skipped"] == 3


def test_a_box_of_an_unknown_image_is_listed_and_one_beyond_the_edge_clipped(raw):
    fake.write(raw)
    edit(raw / BOXES, fake.BOXED, "00000077_000.png")
    edit(raw / BOXES, "102.4,204.8", "4096,204.8")
    folder, splits = build_beside("nih_chestxray14", raw)
    assert (
        skipped_of(folder)[f"{BOXES}, row 2"] == "a box on an image that is in no table of images"
    )
    assert boxes_of(by_image(splits)["00000001_000"]) == [("Mass", 0, 0, 0.2, 1)]
    edit(raw / BOXES, fake.BOXED, "00000078_000.png")
    message = f"2 of the 2 boxes .* on images that no table lists; the first is {BOXES}, row 2"
    assert_build_stops("nih_chestxray14", raw, message, overwrite=True)


def test_a_list_that_is_no_text_is_named(raw):
    fake.write(raw)
    (raw / "test_list.txt").write_bytes("Tést".encode("latin-1"))
    assert_build_stops("nih_chestxray14", raw, "test_list.txt is not UTF-8 text")


TABLE, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            TABLE,
            "Hernia",
            "Hernai",
            r"v2020.csv, row \d+: Finding Labels holds one that is none of",
        ),
        (
            TABLE,
            "No Finding",
            "No Finding|Mass",
            r"row \d+: Finding Labels has No Finding beside a finding",
        ),
        (
            TABLE,
            "Patient ID",
            "PatientID",
            r"no column 'Patient ID' .* Did you mean 'PatientID'\?",
        ),
        (
            TABLE,
            "00000007_000.png,",
            "00000008_001.png,",
            r"row \d+: Patient ID does not fit Image Index",
        ),
        (
            "test_list.txt",
            "00000025_000.png",
            "00000001_000.png",
            r"test_list.txt, line \d+: its image is in both lists",
        ),
        (TABLE, ",0,7,", ",0,²,", r"row \d+: Patient ID does not fit"),
        (BOXES, "Infiltrate", "Infiltrat", "row 2: the box's finding is unknown"),
        (BOXES, "512.0", "nan", "row 2: .* are not a box's x0"),
        (BOXES, "512.0", "-512.0", "row 2: .* are not a box's x0"),
        (BOXES, fake.BOXED, "00000003_000.png", r"1 of the 2 boxes .* first is .*row 2"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / file, old, new)
    assert_build_stops("nih_chestxray14", raw, message)


def test_a_patient_in_both_lists_stops_the_build(raw):
    fake.write(raw)
    edit(raw / "train_val_list.txt", "00000007_001.png\n", "")
    with open(raw / "test_list.txt", "a") as stream:
        stream.write("\n00000007_001.png\n")
    message = r"1 patient stands in two splits.*v2020.csv, row \d+ is in.*row \d+, of"
    assert_build_stops("nih_chestxray14", raw, message)


def test_missing_list_is_named(raw):
    fake.write(raw)
    (raw / "test_list.txt").unlink()
    assert_build_stops("nih_chestxray14", raw, r"test_list.txt is missing")

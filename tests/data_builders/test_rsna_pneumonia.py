"""RSNA Pneumonia from its raw layouts to what a reader sees."""

import json

import numpy as np
import pytest

from cxr_jax.data import dataset_info, seen_images
from data_builders import build
from data_builders.base import counts
from data_builders.base import splits as split_rule
from data_builders.nih_chestxray14 import nih_chestxray14_dataset_builder
from tests.fakes import rsna_pneumonia as fake
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
    return build_layout(
        "rsna_pneumonia", fake, request.param, tmp_path_factory.mktemp("rsna_pneumonia")
    )


def test_pixels_labels_boxes_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        expected = {name: float(name == image.finding) for name in fake.CLASSES}
        if not built.layout.get("with_classes", True):
            expected |= dict.fromkeys(fake.CLASSES[1:], np.nan)
        np.testing.assert_equal(example["labels"], expected)
        assert boxes_of(example) == rounded(image.boxes)
        person = image.person if built.layout.get("with_mapping") else image_id
        said = (example["patient_id"], example["sex"], example["projection"])
        assert said == (person, image.sex, image.projection)
        np.testing.assert_equal(example["age"], np.float32(image.age))
        assert example["split"] == split_rule.by_patient(person)
    assert built.splits.keys() == {"train", "validation", "test"}


def test_without_the_mapping_every_build_says_that_people_recur(built):
    metadata = dataset_info.read_metadata(built.folder)
    said = counts.describe_dataset(built.folder), build.check("rsna_pneumonia", built.raw)
    if built.layout.get("with_mapping"):
        assert metadata["patient_note"] == "" and "person is not known" not in " ".join(said)
        people = {split: {e["patient_id"] for e in of} for split, of in built.splits.items()}
        assert not people["train"] & people["test"]
        # NIH's builder names the same persons so: what it has of them is found by their number.
        nih_patient = nih_chestxray14_dataset_builder.patient_of("00000139_001.png", "139", "")
        assert nih_patient in set.union(*people.values())
    else:
        total = sum(map(len, built.splits.values()))
        assert metadata["patient_note"].startswith(f"of {total} of the {total} images the person")
        assert all("25,684 of them are of 11,171 persons, and 67 %" in text for text in said)
    hashed = seen_images.read(built.folder).patient
    assert bool((hashed != "").all()) == bool(built.layout.get("with_mapping"))


def test_what_gives_no_example_is_listed_and_the_hold_out_is_not(built):
    expected = {
        fake.NO_PIXELS: "",
        fake.BROKEN: "",
        fake.FILE_WITHOUT_ROW: "^no row in stage_2_train_labels.csv$",
    }
    skipped = skipped_of(built.folder)
    row = row_of(built.raw, "stage_2_train_labels.csv", fake.ROW_WITHOUT_FILE)
    assert skipped.pop(row) == "no such file"
    assert_reasons({name[:36]: reason for name, reason in skipped.items()}, expected)


LABELS, INFO = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"img_id"', '"image"', "is not RSNA's list of objects with img_id and subset_img_id"),
        ("_000.png", ".png", "is not RSNA's list of objects"),
        (fake.patient_id(3), "another", r"labels.csv, row \d+: its patientId is not in pneumonia"),
        ("[{", "{", "is not RSNA's list"),
    ],
)
def test_a_mapping_of_something_else_stops_the_build(raw, old, new, message):
    fake.write(raw, with_mapping=True)
    edit(raw / fake.MAPPING, old, new)
    assert_build_stops("rsna_pneumonia", raw, message)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (LABELS, "64.0,1", "64.0,0", r"row 2: Target does not fit x, y, width, height"),
        (LABELS, ",,,,0", ",,,,1", r"row 3: Target does not fit x, y, width, height"),
        (LABELS, ",,,,0", ",,,,", r"row 3: 'Target' is neither 1 nor 0"),
        (LABELS, "256.0,", "wide,", r"row 2: x, y, width, height are no numbers"),
        (LABELS, "256.0,128.0,512.0", "256.0,,512.0", r"row 2: x, y, width, height are no numbers"),
        (LABELS, "512.0,64.0", "-512.0,64.0", r"row 2: .* are not a box's x0, y0, x1, y1"),
        (LABELS, fake.patient_id(1), fake.patient_id(0), r"one row, but here .*row 2 and .*row 3"),
        (LABELS, fake.patient_id(2), fake.patient_id(1), r"one row, but here .*row 3 and .*row 4"),
        (LABELS, fake.patient_id(1), "stranger", f"row 3: its patientId has no row in {INFO}"),
        (LABELS, "Target", "target", "no column 'Target' .* Did you mean 'target'"),
        (INFO, "Lung Opacity\n", "Opacity\n", r"info.csv, row \d+: class is none of"),
        (INFO, "Lung Opacity\n", "Normal\n", r"info.csv, row \d+: the image's class is another"),
        (
            INFO,
            ",Normal",
            ",Lung Opacity",
            r"labels.csv, row \d+: Target does not fit the image's class",
        ),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / file, old, new)
    assert_build_stops("rsna_pneumonia", raw, message)


def test_two_persons_for_an_image_stop_the_build(raw):
    fake.write(raw, with_mapping=True)
    mapping = raw / fake.MAPPING
    entries = json.loads(mapping.read_text())
    mapping.write_text(json.dumps([*entries, entries[0]]))
    build.check("rsna_pneumonia", raw)  # the same again contradicts nothing
    mapping.write_text(json.dumps([*entries, {**entries[0], "img_id": "00099998_001.png"}]))
    message = r"gives two persons for an image \(1 times\). Restore RSNA's file"
    assert_build_stops("rsna_pneumonia", raw, message)

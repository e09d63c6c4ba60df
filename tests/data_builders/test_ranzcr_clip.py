"""RANZCR CLiP from its raw layouts to what a reader sees."""

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from data_builders.base import splits as split_rule
from data_builders.ranzcr_clip.ranzcr_clip_dataset_builder import LINES
from tests.fakes import ranzcr_clip as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    boxes_of,
    build_beside,
    build_layout,
    by_image,
    edit,
    patients_of,
    rounded,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("ranzcr_clip", fake, request.param, tmp_path_factory.mktemp("ranzcr_clip"))


def test_pixels_labels_ids_and_lines_belong_together(built):
    for image_id, image, example in built.paired():
        assert example["labels"] == {label: float(label in image.positive) for label in fake.LABELS}
        assert (example["patient_id"], example["study_id"]) == (image.patient, image_id)
        assert boxes_of(example) == rounded(image.boxes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_image_that_exif_turns_takes_its_boxes_along(raw, orientation):
    fake.write(raw)
    path = raw / "train" / f"{fake.LINED}.jpg"
    stored = np.zeros((fake.HEIGHT, fake.WIDTH), np.uint8)
    stored[20:60, 16:32] = 255  # where its CVC is drawn
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    _, splits = build_beside("ranzcr_clip", raw, config_name="full")
    example = by_image(splits)[fake.LINED]
    rows, columns = np.nonzero(example["image"][..., 0] > 127)
    height, width = example["image"].shape[:2]
    drawn = ("CVC - Normal", rows.min() / height, columns.min() / width)
    drawn += ((rows.max() + 1) / height, (columns.max() + 1) / width)
    assert boxes_of(example)[0] == rounded([drawn])[0]


def test_patients_are_kept_as_text_and_in_one_split(built):
    patients = patients_of(built.splits)
    assert {"12e456789", "000000012"} <= set.union(*patients.values())
    assert patients.keys() == {"train", "validation", "test"}
    for split, ids in patients.items():
        assert {split_rule.by_patient(patient) for patient in ids} == {split}


def test_what_gives_no_example_is_listed_and_the_hold_out_is_not(built):
    expected = {
        fake.TRUNCATED: "",
        fake.FILE_WITHOUT_ROW: "no row in train.csv",
    }
    skipped = skipped_of(built.folder)
    row = row_of(built.raw, "train.csv", fake.ROW_WITHOUT_FILE)
    assert skipped.pop(row) == "no such file"
    assert_reasons({name[:-4]: reason for name, reason in skipped.items()}, expected)


def test_lines_on_images_or_under_labels_that_are_not_theirs(raw):
    fake.write(raw)
    path = raw / LINES
    edit(path, fake.TRUNCATED, "1.2.3")
    folder, _ = build_beside("ranzcr_clip", raw)
    row = row_of(raw, LINES, "1.2.3,")
    assert skipped_of(folder)[row] == "a box on an image that is in no table of images"
    edit(path, "CVC - Normal", "CVC - Abnormal")
    message = r"1 of the 4 boxes .*of findings .* first is train_annotations.csv, row 2"
    assert_build_stops("ranzcr_clip", raw, message, overwrite=True)
    path.write_text(path.read_text().replace("1.2.826.", "9.9.826."))
    message = r"4 of the 4 boxes .* on images that no table lists"
    assert_build_stops("ranzcr_clip", raw, message, overwrite=True)


def test_lines_on_a_smaller_copy_of_the_images_stop_the_build(raw):
    fake.write(raw)
    path = raw / "train" / f"{fake.LINED}.jpg"
    Image.open(path).resize((fake.WIDTH // 2, fake.HEIGHT // 2)).save(path)
    message = r"1 of the 2 lines .* reach beyond their images; the first is .*csv, row 2\."
    assert_build_stops("ranzcr_clip", raw, message)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.csv", "CVC - Normal", "CVC-Normal", "no column 'CVC - Normal' .*CVC-Normal"),
        ("train.csv", "12e456789", "1.2e+13", r"train.csv, row 2: PatientID has not nine"),
        ("train.csv", "000000012", "12", r"train.csv, row 4: PatientID has not nine"),
        ("train.csv", ",0,0,0", ",0,,0", r"row 2: 'NGT - Borderline' is neither 1 nor 0"),
        ("train.csv", ",0,0,0", ",0,-1,0", r"row 2: 'NGT - Borderline' is neither 1 nor 0"),
        ("train.csv", fake.uid(5), fake.uid(6), r"is listed twice: train.csv, row 7 and .*row 8"),
        ("train_annotations.csv", "CVC - N", "CVC - n", "csv, row 2: the line's label is unknown"),
        ("train_annotations.csv", "[16, 20]", "[16]", r"csv, row 2: data is not a list of points"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / file, old, new)
    assert_build_stops("ranzcr_clip", raw, message)

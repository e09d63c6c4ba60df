"""BRAX from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from data_builders.base import splits as split_rule
from tests.fakes import brax as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    build_layout,
    edit,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("brax", fake, request.param, tmp_path_factory.mktemp("brax"))


def test_pixels_labels_and_ids_belong_together(built):
    for _, image, example in built.paired():
        expected = {name: float(cell or "nan") for name, cell in image.labels.items()}
        np.testing.assert_equal({k: float(v) for k, v in example["labels"].items()}, expected)
        said = (example["patient_id"], example["study_id"], example["projection"], example["sex"])
        assert said == (image.patient, image.study, image.projection, image.sex)
        np.testing.assert_equal(float(example["age"]), image.age)
        assert example["split"] == split_rule.by_patient(image.patient)
    assert built.splits.keys() == {"train", "validation", "test"}


def test_what_does_not_fit_together_is_listed(built):
    skipped = skipped_of(built.folder)
    row = row_of(built.raw, "master_spreadsheet", f"image-3.{fake.ROW_WITHOUT_FILE}")
    assert skipped.pop(row) == "no such file"
    reasons = {name.split("image-")[1].split(".png")[0]: why for name, why in skipped.items()}
    expected = {
        f"3.{fake.CORRUPT}": "",
        "1.4": "no row in master_spreadsheet",
    }
    assert_reasons(reasons, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",-1.0,", ",?,", r"update.csv, row 2: Lung Lesion is neither 1, 0, -1 nor blank"),
        ("Lung Lesion", "Lesion", "no column 'Lung Lesion' .* Is it column 12,"),
        (",id_0001beef", ",id_0002beef", r"row \d: PatientID does not fit PngPath"),
        (",85 or more,", ",old,", "row 3: PatientAge is not like 45 or"),
        (",images/", ",pngs/", "row 2: PngPath is not like images/"),
        ("Series_2.1/image-3.1.png", "Series_2.0/image-3.0.png", "listed twice"),
    ],
)
def test_errors_in_the_owners_table_stop_the_build(raw, old, new, message):
    fake.write(raw)
    edit(raw / "master_spreadsheet_update.csv", old, new)
    assert_build_stops("brax", raw, message)


def test_missing_table_is_named(raw):
    fake.write(raw)
    (raw / "master_spreadsheet_update.csv").unlink()
    assert_build_stops("brax", raw, r"no master_spreadsheet_update.csv or master_spread")

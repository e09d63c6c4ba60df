"""PadChest from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from data_builders.base import splits as split_rule
from data_builders.padchest.padchest_dataset_builder import LABEL_NAMES
from tests.fakes import padchest as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    build_layout,
    edit,
    positives,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("padchest", fake, request.param, tmp_path_factory.mktemp("padchest"))


def test_pixels_labels_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        for fact in ("projection", "sex", "report"):
            assert example[fact] == getattr(image, fact), (image_id, fact)
        assert (example["patient_id"], example["study_id"]) == (image.patient, image.study)
        np.testing.assert_array_equal(example["age"], image.age)
        assert example["labels"].keys() == set(LABEL_NAMES)
        values = set(example["labels"].values())
        if image.positive is None:
            assert np.isnan(list(values)).all()
        else:
            assert values <= {0.0, 1.0}
            assert positives(example) == image.positive
        assert example["split"] == split_rule.by_patient(image.patient)
    assert built.splits.keys() == {"train", "validation", "test"}


def test_what_gives_no_example_is_listed(built):
    expected = {
        fake.name_of(fake.CUT_OFF): "a PNG that is (damaged or )?cut off",
        fake.WITHOUT_ROW: "no row in PADCHEST_chest",
    }
    skipped = skipped_of(built.folder)
    for name, why in ((fake.ABSENT, "no such file"), (fake.WITHOUT_PATIENT, "no PatientID")):
        assert skipped.pop(row_of(built.raw, "PADCHEST", fake.name_of(name))) == why
    assert_reasons(skipped, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("['normal']", "normal", r"csv, row 2: Labels is not a list like"),
        ("['normal']", "[1]", r"row 2: Labels is not a list"),
        ("['normal']", "('normal')", r"row 2: Labels is not a list"),
        (fake.patient_id(2), "8.3E+37", r"row 4: PatientID was rounded"),
        (f"{fake.name_of(1)},50,", f"{fake.name_of(1)},fifty,", r"row 3: ImageDir is not a number"),
        (fake.name_of(1), fake.name_of(2), r"listed twice: .*row 3 and .*row 4"),
        (",Labels,", ",labels,", r"no column 'Labels' .* Did you mean 'labels'\?"),
    ],
)
def test_errors_in_the_owners_table_stop_the_build(raw, old, new, message):
    fake.write(raw)
    for path in raw.rglob(fake.name_of(1)):
        path.unlink()  # then the row's ImageDir says where it should be
    edit(raw / fake.TABLE, old, new)
    assert_build_stops("padchest", raw, message)


def test_a_missing_table_is_named(raw):
    fake.write(raw)
    (raw / fake.TABLE).unlink()
    assert_build_stops("padchest", raw, r"holds no PADCHEST_chest_x_ray.*After BIMCV's terms")

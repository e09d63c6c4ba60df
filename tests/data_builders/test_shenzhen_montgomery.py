"""Shenzhen and Montgomery from their raw layouts to what a reader sees."""

import io

import numpy as np
import pytest
from PIL import Image

from data_builders.base import splits as split_rule
from data_builders.shenzhen_montgomery.shenzhen_montgomery_dataset_builder import parse_reading
from tests.fakes import shenzhen_montgomery as fake
from tests.fakes.dataset import assert_build_stops, assert_reasons, build_layout, skipped_of


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout(
        "shenzhen_montgomery", fake, request.param, tmp_path_factory.mktemp("shenzhen_montgomery")
    )


def test_pixels_labels_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        assert example["labels"] == {"Tuberculosis": image.tuberculosis}
        assert example["patient_id"] == image.patient
        assert (example["projection"], example["sex"]) == ("FRONTAL", image.sex), image_id
        np.testing.assert_allclose(example["age"], image.age, rtol=1e-6, err_msg=image_id)
        assert example["split"] == split_rule.by_patient(image.patient)
    assert len(built.splits) > 1


def test_the_mask_of_the_lungs_is_of_both_sides_or_not_there(built):
    for image_id, example in built.examples.items():
        masks = example["masks"]["mask"]
        assert len(masks) == (image_id != fake.ONE_SIDE)
        for mask in masks:
            pixels = np.asarray(Image.open(io.BytesIO(mask)))
            assert (pixels[:, 5:40] == 255).all() and pixels.mean() == 255 * 35 / 60


def test_what_gives_no_example_is_listed(built):
    expected = {
        **dict.fromkeys(fake.CORRUPT, ""),
        **dict.fromkeys(fake.ABSENT, "no such file"),
        **dict.fromkeys(fake.STRANGE_NAMES, "so it has no label"),
    }
    sets = built.layout.get("sets", tuple(fake.SETS))
    expected = {f"{name}.png": why for name, why in expected.items() if name[:6] in sets}
    assert_reasons(skipped_of(built.folder), expected)


@pytest.mark.parametrize(
    ("text", "sex", "age"),
    [
        ("female;22 yrs.", "F", 22),
        ("Male , 60 years old\nsecondary PTB", "M", 60),
        ("male 14days", "M", 14 / 365.25),
        ("male", "M", float("nan")),
        ("27", "", 27),
        ("Patient's Sex: M \nPatient's Age: 031Y", "M", 31),
        ("Patient's Age: *\nPatient's Sex: F", "F", float("nan")),
        ("female 4?yrs", "F", 4),
        ("male 45 kg", "M", float("nan")),
        ("\ufeffmale 45yrs", "M", 45),
    ],
)
def test_readings_are_understood_or_left_unknown(text, sex, age):
    found_sex, found_age = parse_reading(text)
    assert found_sex == sex
    np.testing.assert_allclose(found_age, age)


def test_a_patient_with_both_labels_stops_the_build(raw):
    fake.write(raw, sets=("MCUCXR",))
    images = raw / "MontgomerySet/CXR_png"
    (images / "MCUCXR_0001_1.png").write_bytes((images / "MCUCXR_0001_0.png").read_bytes())
    message = r"MCUCXR_0001_0 and MCUCXR_0001_1 in .*CXR_png"
    assert_build_stops("shenzhen_montgomery", raw, message)


def test_a_folder_without_the_owners_folders_is_refused(raw):
    (raw / "images").mkdir()
    (raw / "images/CHNCXR_0001_0.png").write_bytes(b"")
    message = r"holds no folder CXR_png .*Unpack NLM's Shenzhen set"
    assert_build_stops("shenzhen_montgomery", raw, message)

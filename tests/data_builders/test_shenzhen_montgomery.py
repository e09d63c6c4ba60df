"""Shenzhen and Montgomery from their raw layouts to what a reader sees."""

import csv

import numpy as np
import pytest

from data_builders.records import BuildError
from data_builders.shenzhen_montgomery.shenzhen_montgomery_dataset_builder import parse_reading
from tests.fakes import shenzhen_montgomery as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("shenzhen_montgomery", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    layout = fake.LAYOUTS[request.param]
    films = fake.write(raw, **layout)
    return films, layout.get("sets", tuple(fake.SETS)), *build(raw, data)


def test_pixels_labels_and_ids_belong_together(built):
    films, _, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, image_id
        assert example["labels"] == {"Tuberculosis": film.tuberculosis}
        assert example["patient_id"] == film.patient
        assert (example["view"], example["sex"]) == ("FRONTAL", film.sex), image_id
        np.testing.assert_allclose(example["age"], film.age, rtol=1e-6, err_msg=image_id)


def test_no_patient_is_in_two_splits(built):
    _, _, _, splits = built
    patients = [{e["patient_id"] for e in examples} for examples in splits.values()]
    assert len(patients) > 1
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_what_gives_no_example_is_listed(built):
    _, sets, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {row["file"].split("/")[-1]: row["reason"] for row in csv.DictReader(stream)}
    wanted = (*fake.CORRUPT, *fake.ABSENT, *fake.STRANGE_NAMES)
    assert skipped.keys() == {f"{name}.png" for name in wanted if name[:6] in sets}
    for name in (*fake.ABSENT, *fake.STRANGE_NAMES):
        if name[:6] in sets:
            reason = "no such file" if name in fake.ABSENT else "so it has no label"
            assert reason in skipped[f"{name}.png"]


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
    reading = parse_reading(text)
    assert reading.sex == sex
    np.testing.assert_allclose(reading.age, age)


def test_a_patient_with_both_labels_stops_the_build(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw, sets=("MCUCXR",))
    films = raw / "MontgomerySet/CXR_png"
    (films / "MCUCXR_0001_1.png").write_bytes((films / "MCUCXR_0001_0.png").read_bytes())
    with pytest.raises(BuildError, match=r"MCUCXR_0001_0 and MCUCXR_0001_1 in .*CXR_png"):
        build(raw, tmp_path / "data")


def test_a_folder_without_the_owners_folders_is_refused(tmp_path):
    (tmp_path / "raw/films").mkdir(parents=True)
    (tmp_path / "raw/films/CHNCXR_0001_0.png").write_bytes(b"")
    with pytest.raises(BuildError, match=r"holds no folder CXR_png .*Unpack NLM's Shenzhen set"):
        build(tmp_path / "raw", tmp_path / "data")

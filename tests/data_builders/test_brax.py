"""BRAX from its raw layouts to what a reader sees."""

import csv

import numpy as np
import pytest

from data_builders import splits as by_hash
from data_builders.records import BuildError
from tests.fakes import brax as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("brax", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **fake.LAYOUTS[request.param])
    return films, *build(raw, data)


def test_pixels_labels_and_ids_belong_together(built):
    films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, image_id
        expected = {name: float(cell or "nan") for name, cell in film.labels.items()}
        np.testing.assert_equal({k: float(v) for k, v in example["labels"].items()}, expected)
        said = (example["patient_id"], example["study_id"], example["view"], example["sex"])
        assert said == (film.patient, film.study, film.view, film.sex)
        np.testing.assert_equal(float(example["age"]), film.age)


def test_patients_are_split_by_their_hash(built):
    _, _, splits = built
    patients = {split: {e["patient_id"] for e in examples} for split, examples in splits.items()}
    assert patients.keys() == {"train", "validation", "test"}
    for split, of_split in patients.items():
        assert {by_hash.by_patient(patient) for patient in of_split} == {split}


def test_what_does_not_fit_together_is_listed(built):
    _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    places = {name.partition("image-")[2].partition(".png")[0]: name for name in skipped}
    assert places.keys() == {f"3.{fake.CORRUPT}", f"3.{fake.ROW_WITHOUT_FILE}", "1.4"}
    assert skipped[places[f"3.{fake.ROW_WITHOUT_FILE}"]] == "no such file"
    assert "no row in master_spreadsheet" in skipped[places["1.4"]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",-1.0,", ",?,", r"update.csv, row 2: Lung Lesion is '\?'; expected 1, 0, -1 or blank"),
        ("Lung Lesion", "Lesion", "no column 'Lung Lesion'. Did you mean 'Lesion'"),
        (",id_0001beef", ",id_0002beef", r"PatientID 'id_0002beef' does not fit PngPath"),
        (",85 or more,", ",old,", "PatientAge is 'old'; expected 45 or"),
        (",images/", ",pngs/", "row 2: PngPath is 'pngs/.*expected images/"),
        ("Series_2.1/image-3.1.png", "Series_2.0/image-3.0.png", "listed twice"),
    ],
)
def test_errors_in_the_owners_table_stop_the_build(tmp_path, old, new, message):
    fake.write(tmp_path)
    path = tmp_path / "master_spreadsheet_update.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build(tmp_path, tmp_path / "data")


def test_missing_table_is_named(tmp_path):
    fake.write(tmp_path)
    (tmp_path / "master_spreadsheet_update.csv").unlink()
    with pytest.raises(BuildError, match=r"no master_spreadsheet_update.csv or master_spread"):
        build(tmp_path, tmp_path / "data")

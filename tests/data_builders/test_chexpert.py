"""CheXpert from its raw layouts to what a reader sees."""

import csv

import numpy as np
import pytest

from data_builders.records import BuildError
from tests.fakes import chexpert as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("chexpert", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    layout = fake.LAYOUTS[request.param]
    films = fake.write(raw, **layout)
    return layout, films, *build(raw, data)


def test_pixels_labels_and_ids_belong_together(built):
    _, films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, image_id
        expected = {name: float(cell or "nan") for name, cell in film.labels.items()}
        np.testing.assert_equal({k: float(v) for k, v in example["labels"].items()}, expected)
        assert example["patient_id"] == image_id.split("/")[0]
        assert example["study_id"] == "/".join(image_id.split("/")[:2])
        said = (example["split"], example["view"], example["sex"])
        assert said == (film.split, film.view, film.sex), image_id
        np.testing.assert_equal(float(example["age"]), film.age)


def test_valid_is_validation_and_test_is_there_only_with_its_films(built):
    layout, _, _, splits = built
    assert set(splits) == {"train", "validation"} | ({"test"} if layout.get("test") else set())
    patients = [{e["patient_id"] for e in examples} for examples in splits.values()]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert patients[1] == {f"patient{number}" for number in fake.VALID_PATIENTS}


def test_what_does_not_fit_together_is_listed(built):
    layout, _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {
            "/".join(row["file"].split("/")[-3:]): row["reason"] for row in csv.DictReader(stream)
        }
    expected = {
        f"{fake.CORRUPT}.jpg": "",
        f"{fake.ROW_WITHOUT_FILE}.jpg": "no such file",
        f"{fake.FILE_WITHOUT_ROW}.jpg": "no row in ",
    }
    if layout.get("test") == "studies":
        expected["/".join(fake.STUDY_WITHOUT_FILM.split("/")[-3:])] = "a study without a film"
    assert skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in skipped[name]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.csv", ",-1.0,", ",-2.0,", r"train.csv, row \d+: .* is '-2.0'; expected 1, 0, -1"),
        ("train.csv", "Lung Lesion", "Lung lesions", "no column 'Lung Lesion'. Did you mean"),
        ("train.csv", ",Lateral,", ",Frontal,", r"row 3: Frontal/Lateral is 'Frontal', but Path"),
        ("train.csv", "/train/", "/valid/", "row 2: .* is no film of train"),
        ("train.csv", "view2_lateral", "view1_frontal", "row 3: Frontal/Lateral is 'Lateral'"),
        ("train.csv", "study2/view1", "study1/view1", "listed twice: train.csv, row 2 and"),
        ("train.csv", ",Frontal,AP", ",Frontal", r"train.csv, row \d+ has 18 fields"),
        ("train.csv", "Female,2", "Female,x2", "Age is 'x2"),
        (
            "valid.csv",
            "patient64541/study1/view1",
            "patient00001/study1/view9",
            "1 patient stands in two splits",
        ),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, file, old, new, message):
    fake.write(tmp_path / "raw")
    path = tmp_path / "raw" / "CheXpert-v1.0-small" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build(tmp_path / "raw", tmp_path / "data")


def test_missing_table_is_named(tmp_path):
    fake.write(tmp_path / "raw")
    (tmp_path / "raw" / "CheXpert-v1.0-small" / "train.csv").unlink()
    with pytest.raises(BuildError, match=r"holds no train.csv. Register at"):
        build(tmp_path / "raw", tmp_path / "data")


def test_full_and_small_release_in_one_folder_are_refused(tmp_path):
    fake.write(tmp_path / "raw")
    fake.write(tmp_path / "raw", release="CheXpert-v1.0")
    with pytest.raises(BuildError, match="two releases"):
        build(tmp_path / "raw", tmp_path / "data")

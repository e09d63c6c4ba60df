"""PadChest from its raw layouts to what a reader sees."""

import csv

import numpy as np
import pytest

from data_builders.padchest.label_lists import LABEL_NAMES
from data_builders.records import BuildError
from tests.fakes import padchest as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("padchest", data, manual_dir=raw, **settings)


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
        for fact in ("view", "sex", "report"):
            assert example[fact] == getattr(film, fact), (image_id, fact)
        assert (example["patient_id"], example["study_id"]) == (film.patient, film.study)
        np.testing.assert_array_equal(example["age"], film.age)
        assert example["labels"].keys() == set(LABEL_NAMES)
        values = set(example["labels"].values())
        if film.positive is None:
            assert np.isnan(list(values)).all()
        else:
            assert values <= {0.0, 1.0}
            positive = {name for name, value in example["labels"].items() if value == 1}
            assert positive == film.positive


def test_no_patient_is_in_two_splits(built):
    _, _, splits = built
    patients = [{e["patient_id"] for e in examples} for examples in splits.values()]
    assert len(patients) == 3
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_what_gives_no_example_is_listed(built):
    _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {row["file"].split("/")[-1]: row["reason"] for row in csv.DictReader(stream)}
    expected = {
        fake.name_of(fake.CUT_OFF): "cannot be decoded",
        fake.name_of(fake.ABSENT): "no such file",
        fake.name_of(fake.WITHOUT_PATIENT): r"no PatientID (PADCHEST_chest",
        fake.WITHOUT_ROW: "no row in PADCHEST_chest",
    }
    assert skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in skipped[name]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("['normal']", "normal", r"csv, row 2: Labels holds 'normal', expected a list"),
        ("['normal']", "[1]", r"row 2: Labels holds '\[1\]'"),
        ("['normal']", "('normal')", r"row 2: Labels holds"),
        (fake.patient_id(2), "8.3E+37", r"row 4: PatientID '8.3E\+37' was rounded"),
        (f"{fake.name_of(1)},50,", f"{fake.name_of(1)},fifty,", r"row 3: ImageDir is 'fifty'"),
        (fake.name_of(1), fake.name_of(2), r"listed twice: .*row 3 and .*row 4"),
        (",Labels,", ",labels,", r"no column 'Labels'. Did you mean 'labels'\?"),
    ],
)
def test_errors_in_the_owners_table_stop_the_build(tmp_path, old, new, message):
    raw = tmp_path / "raw"
    fake.write(raw)
    for path in raw.rglob(fake.name_of(1)):
        path.unlink()  # then the row's ImageDir says where it should be
    path = raw / fake.TABLE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")


def test_a_missing_table_is_named(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw)
    (raw / fake.TABLE).unlink()
    with pytest.raises(BuildError, match=r"holds no PADCHEST_chest_x_ray.*After BIMCV's terms"):
        build(raw, tmp_path / "data")

"""TB Portals from its raw layouts to what a reader sees."""

import csv

import numpy as np
import pytest

from data_builders.records import BuildError
from data_builders.tb_portals.cases import CLASSES, DRUG_RESISTANT, LABEL_NAMES
from tests.fakes import tb_portals as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("tb_portals", data, manual_dir=raw, **settings)


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
        assert (example["patient_id"], example["study_id"]) == (film.patient, film.study)
        assert (example["view"], example["sex"]) == (film.view, film.sex), image_id
        np.testing.assert_array_equal(example["age"], film.age)
        labels = example["labels"]
        if not film.resistance:
            assert np.isnan([labels[name] for name in LABEL_NAMES]).all(), image_id
        else:
            assert labels[DRUG_RESISTANT] == (film.resistance != "Sensitive")
            for name in CLASSES:
                assert labels[name] == (name == film.resistance)


def test_a_patients_two_conditions_have_their_own_labels(built):
    _, _, splits = built
    examples = by_image(splits)
    first, second = (examples[fake.key(fake.TWICE, condition)] for condition in (0, 1))
    assert first["patient_id"] == second["patient_id"]
    assert (first["labels"][DRUG_RESISTANT], second["labels"]["XDR"]) == (0, 1)


def test_no_patient_is_in_two_splits(built):
    _, _, splits = built
    patients = [{e["patient_id"] for e in examples} for examples in splits.values()]
    assert len(patients) == 3
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_what_gives_no_example_is_listed(built):
    _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {
            "/".join(row["file"].split("/")[-4:]).removesuffix(".dcm"): row["reason"]
            for row in csv.DictReader(stream)
        }
    expected = {
        fake.key(fake.CUT_OFF): "DICOM",
        fake.key(fake.ABSENT): "no such file",
        fake.key(fake.ANGIOGRAM): "modality XA is no radiograph",
        fake.WITHOUT_ROW: "no row in TB",
    }
    assert skipped.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in skipped[name]


FILMS, CASES = "TB_Portals_CXRs_August_2023.csv", "TB_Portals_Patient_Cases_August_2023.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (CASES, "MDR non XDR", "RR", r"Cases_August_2023.csv, row 4: .* is 'RR', which is none"),
        (CASES, "type_of_resistance", "resistance", r"no column 'type_of_resistance'"),
        (
            CASES,
            f"{fake.patient_id(8)},c8-1",
            f"{fake.patient_id(8)},c8-0",
            r"row 11: condition 'c8-0' .* stands there twice, as \('Sensitive'.* and as \('XDR'",
        ),
        (
            FILMS,
            fake.URL,
            "file",
            r"no column 'series_instance_content_url', .* Its columns: .*fil",
        ),
        (FILMS, "condition_id", "condition", r"no column 'condition_id'"),
        (
            FILMS,
            f",{fake.patient_id(1)},",
            f",{fake.patient_id(2)},",
            r"CXRs_August_2023.csv, row 3: the film .* is not of patient_id '00000002",
        ),
        (FILMS, fake.key(1), "1.2.1", r"row 3: .* expected <patient>/<study>"),
        (
            FILMS,
            f"{fake.patient_id(8)}/1.2.8/1.2.8.1/1.2.8.1.9",
            f"{fake.patient_id(8)}/1.2.8/1.2.8.0/1.2.8.0.9",
            r"listed twice: TB_Portals_CXRs_August_2023.csv, row 10 and .*row 11",
        ),
    ],
)
def test_errors_in_the_owners_tables_stop_the_build(tmp_path, file, old, new, message):
    raw = tmp_path / "raw"
    fake.write(raw)
    path = raw / file
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")


@pytest.mark.parametrize("missing", [FILMS, CASES])
def test_a_missing_table_is_named(tmp_path, missing):
    raw = tmp_path / "raw"
    fake.write(raw)
    (raw / missing).unlink()
    with pytest.raises(BuildError, match=rf"no {missing[:-16].lower()}.*After the data-use"):
        build(raw, tmp_path / "data")


def test_two_releases_are_not_mixed(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw)
    (raw / "TB Portals CXRs March 2026.csv").write_bytes((raw / FILMS).read_bytes())
    with pytest.raises(BuildError, match=r"several releases: .*March 2026.csv.*Keep one"):
        build(raw, tmp_path / "data")

"""TB Portals from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from data_builders.base import splits as split_rule
from data_builders.tb_portals.tb_portals_dataset_builder import CLASSES, DRUG_RESISTANT, LABEL_NAMES
from tests.fakes import tb_portals as fake
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
    return build_layout("tb_portals", fake, request.param, tmp_path_factory.mktemp("tb_portals"))


def test_pixels_labels_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        assert (example["patient_id"], example["study_id"]) == (image.patient, image.study)
        assert (example["projection"], example["sex"]) == (image.projection, image.sex), image_id
        np.testing.assert_array_equal(example["age"], image.age)
        labels = example["labels"]
        if not image.resistance:
            assert np.isnan([labels[name] for name in LABEL_NAMES]).all(), image_id
        else:
            assert labels[DRUG_RESISTANT] == (image.resistance != "Sensitive")
            for name in CLASSES:
                assert labels[name] == (name == image.resistance)
        assert example["split"] == split_rule.by_patient(image.patient)
    assert built.splits.keys() == {"train", "validation", "test"}


def test_a_patients_two_conditions_have_their_own_labels(built):
    keys = (fake.key(fake.TWICE, condition) for condition in (0, 1))
    first, second = (built.examples[key] for key in keys)
    assert first["patient_id"] == second["patient_id"]
    assert (first["labels"][DRUG_RESISTANT], second["labels"]["XDR"]) == (0, 1)


def test_what_gives_no_example_is_listed(built):
    skipped = skipped_of(built.folder, parts=4)
    release = built.layout.get("release", "August_2023").replace("_", "?")
    table = f"TB?Portals?CXRs?{release}.csv"
    assert skipped.pop(row_of(built.raw, table, fake.key(fake.ABSENT))) == "no such file"
    angiogram = skipped.pop(row_of(built.raw, table, fake.key(fake.ANGIOGRAM)))
    assert angiogram == "its modality is not a radiograph's"
    expected = {
        fake.key(fake.CUT_OFF): "DICOM",
        fake.WITHOUT_ROW: "no row in TB",
    }
    assert_reasons({name.removesuffix(".dcm"): why for name, why in skipped.items()}, expected)


IMAGES, CASES = "TB_Portals_CXRs_August_2023.csv", "TB_Portals_Patient_Cases_August_2023.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            CASES,
            "MDR non XDR",
            "RR",
            r"Cases_August_2023.csv, row 4: type_of_resistance is none of Sensitive",
        ),
        (CASES, "type_of_resistance", "resistance", r"no column 'type_of_resistance'"),
        (
            CASES,
            f"{fake.patient_id(8)},c8-1",
            f"{fake.patient_id(8)},c8-0",
            r"row 11: .*csv, row 10 has the same patient and condition, but says something else",
        ),
        (
            IMAGES,
            fake.URL,
            "file",
            r"no column 'series_instance_content_url', .* Looked for: patient_id",
        ),
        (IMAGES, "condition_id", "condition", r"no column 'condition_id'"),
        (
            IMAGES,
            f",{fake.patient_id(1)},",
            f",{fake.patient_id(2)},",
            r"CXRs_August_2023.csv, row 3: series_instance_content_url is not an image of patient",
        ),
        (IMAGES, fake.key(1), "1.2.1", r"row 3: .* is not like <patient>/<study>"),
        (
            IMAGES,
            f"{fake.patient_id(8)}/1.2.8/1.2.8.1/1.2.8.1.9",
            f"{fake.patient_id(8)}/1.2.8/1.2.8.0/1.2.8.0.9",
            r"listed twice: TB_Portals_CXRs_August_2023.csv, row 10 and .*row 11",
        ),
    ],
)
def test_errors_in_the_owners_tables_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / file, old, new)
    assert_build_stops("tb_portals", raw, message)


@pytest.mark.parametrize("missing", [IMAGES, CASES])
def test_a_missing_table_is_named(raw, missing):
    fake.write(raw)
    (raw / missing).unlink()
    assert_build_stops("tb_portals", raw, rf"no {missing[:-16].lower()}.*After the data-use")


def test_two_releases_are_not_mixed(raw):
    fake.write(raw)
    (raw / "TB Portals CXRs March 2026.csv").write_bytes((raw / IMAGES).read_bytes())
    assert_build_stops("tb_portals", raw, r"several releases: .*March 2026.csv.*Keep one")

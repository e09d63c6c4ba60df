"""Pulmonary edema severity: grades of studies and films joined to MIMIC-CXR's films."""

import csv

import numpy as np
import pytest

from data_builders.records import BuildError
from tests.fakes import pulmonary_edema_severity as fake
from tests.fakes.dataset import build_and_read, by_image


def build(folder, **settings):
    apart = (folder / "mimic").exists()
    return build_and_read(
        "pulmonary_edema_severity",
        folder / "data",
        manual_dir=folder / "raw",
        options={"mimic_dir": str(folder / "mimic")} if apart else {},
        **settings,
    )


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edema")
    graded, skipped = fake.write(folder, **fake.LAYOUTS[request.param])
    return graded, skipped, *build(folder)


def test_pixels_grades_and_ids_belong_together(built):
    graded, _, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == graded.keys()
    for dicom_id, (film, grade, test) in graded.items():
        example = examples[dicom_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, dicom_id
        assert example["labels"]["Edema severity"] == grade
        assert (example["patient_id"], example["study_id"]) == (film.subject, f"s{film.study}")
        assert example["view"] == film.view
        assert (example["split"] == "test") == test
    assert {grade for _, grade, _ in graded.values()} == {0, 1, 2, 3}


def test_an_expert_counts_before_regular_expressions(built):
    graded, _, _, splits = built
    twice = {k: v for k, v in graded.items() if v.film.study == fake.GRADED_TWICE}
    assert len(twice) == 2
    for dicom_id, (_, grade, _) in twice.items():
        assert by_image(splits)[dicom_id]["labels"]["Edema severity"] == grade


def test_no_patient_is_in_two_splits_though_the_tables_share_patients(built):
    graded, _, _, splits = built
    patients = {split: {e["patient_id"] for e in examples} for split, examples in splits.items()}
    assert patients["test"] == set(fake.TESTED)
    assert patients["validation"]
    assert sum(map(len, patients.values())) == len(set.union(*patients.values()))
    # One of them is of MIMIC's train part: only the ledger of films seen can tell.
    assert {film.split for film, _, test in graded.values() if test} == {"train", "test"}


def test_studies_that_give_no_film_are_listed(built):
    _, expected, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    assert skipped.keys() == expected
    assert "not in MIMIC's metadata" in skipped[f"s{fake.UNKNOWN_STUDY}"]
    assert "not in MIMIC's metadata" in skipped[fake.UNKNOWN_FILM]
    reasons = " ".join(skipped.values())
    assert "its patient is in the test set" in reasons and "no film of it is AP or PA" in reasons


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("regex_report", ",2\n", ",4\n", r"regex.*csv, row \d+: edema_severity is '4'; expected"),
        ("expert_report", "edema_severity", "severity", "no column 'edema_severity'"),
        (
            "expert_report",
            "10000033,",
            "10000034,",
            r"row 2: patient 10000034, .* has patient 1000",
        ),
        ("consensus_image", ",50000000,", ",50001000,", r"row 2: .* study 50001000; MIMIC"),
        ("regex_report", "50070000", "50061000", r"row \d+: 50061000 is graded in regex.* too"),
        ("consensus_image", "10000032,", "p10000032,", "subject_id is 'p10000032', expected eight"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, name, old, new, message):
    fake.write(tmp_path)
    path = tmp_path / "raw" / f"{name}_edema_severity.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build(tmp_path)


def test_missing_films_and_tables_are_named(tmp_path):
    fake.write(tmp_path)
    (tmp_path / "raw" / "regex_report_edema_severity.csv").unlink()
    with pytest.raises(BuildError, match=r"regex_report_edema_severity.csv is missing"):
        build(tmp_path)
    (tmp_path / "mimic").rename(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match=r"mimic-cxr-2.0.0-metadata.csv.*MIMIC-CXR-JPG, from"):
        build(tmp_path)

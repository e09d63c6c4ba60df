"""Pulmonary edema severity: grades of studies and images joined to MIMIC-CXR's images."""

import contextlib

import pytest

from data_builders.base.records import BuildError
from tests.fakes import mimic_cxr
from tests.fakes import pulmonary_edema_severity as fake
from tests.fakes.dataset import Built, build_beside, edit, patients_of, row_of, skipped_of


def build(folder):
    options = mimic_cxr.options_for(folder)
    return build_beside("pulmonary_edema_severity", folder / "raw", options=options)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    layout, folder = fake.LAYOUTS[request.param], tmp_path_factory.mktemp("edema")
    graded, _ = fake.write(folder, **layout)
    return Built(layout, graded, *build(folder))


def test_pixels_grades_and_ids_belong_together(built):
    for _, (image, grade, test), example in built.paired():
        assert example["labels"]["Edema severity"] == grade
        assert (example["patient_id"], example["study_id"]) == (image.subject, f"s{image.study}")
        assert example["projection"] == image.projection
        assert (example["split"] == "test") == test
    assert {graded.grade for graded in built.images.values()} == {0, 1, 2, 3}


def test_an_expert_counts_before_regular_expressions(built):
    twice = {k: v for k, v in built.images.items() if v.image.study == fake.GRADED_TWICE}
    assert len(twice) == 2
    for dicom_id, (_, grade, _) in twice.items():
        assert built.examples[dicom_id]["labels"]["Edema severity"] == grade


def test_no_patient_is_in_two_splits_though_the_tables_share_patients(built):
    patients = patients_of(built.splits)
    assert patients["test"] == set(fake.TESTED)
    assert patients["validation"]
    assert sum(map(len, patients.values())) == len(set.union(*patients.values()))
    # One of them is of MIMIC's train part: only the ledger of images seen can tell.
    tested = [graded for graded in built.images.values() if graded.test]
    assert {graded.image.split for graded in tested} == {"train", "test"}


def test_studies_that_give_no_image_are_listed(built, tmp_path):
    _, expected = fake.write(tmp_path, **built.layout)
    skipped = skipped_of(built.folder)
    assert skipped.keys() == {graded_in(built.raw, name) for name in expected}
    assert skipped[graded_in(built.raw, f"s{fake.UNKNOWN_STUDY}")] == "not in MIMIC's metadata"
    assert skipped[graded_in(built.raw, fake.UNKNOWN_IMAGE)] == "not in MIMIC's metadata"
    reasons = " ".join(skipped.values())
    assert "its patient is in the test set" in reasons and "no image of it is AP or PA" in reasons


def graded_in(raw, name):
    """The row of a study ("s50000000") or image; of studies the expert's first."""
    tables = ("expert_report", "regex_report") if name.startswith("s") else ("consensus_image",)
    for table in tables:
        with contextlib.suppress(StopIteration):
            return row_of(raw, f"{table}_edema", name.removeprefix("s"))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("regex_report", ",2\n", ",4\n", r"regex.*csv, row \d+: edema_severity is none of 0, 1"),
        ("expert_report", "edema_severity", "severity", "no column 'edema_severity'"),
        (
            "expert_report",
            "10000033,",
            "10000034,",
            r"row 2: subject_id and study_id are not those that MIMIC has",
        ),
        ("consensus_image", ",50000000,", ",50001000,", r"row 2: subject_id and study_id are not"),
        (
            "regex_report",
            "50070000",
            "50061000",
            r"row \d+: its study_id is listed twice, in regex.* too",
        ),
        ("consensus_image", "10000032,", "p10000032,", "subject_id has not eight"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, name, old, new, message):
    fake.write(tmp_path)
    edit(tmp_path / "raw" / f"{name}_edema_severity.csv", old, new)
    with pytest.raises(BuildError, match=message):
        build(tmp_path)


def test_missing_images_and_tables_are_named(tmp_path):
    fake.write(tmp_path)
    (tmp_path / "raw" / "regex_report_edema_severity.csv").unlink()
    with pytest.raises(BuildError, match=r"regex_report_edema_severity.csv is missing"):
        build(tmp_path)
    (tmp_path / "mimic").rename(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match=r"mimic-cxr-2.0.0-metadata.csv.*MIMIC-CXR-JPG, from"):
        build(tmp_path)

"""What may leave a DICOM header, and in what form."""

import math

import pytest

from cxr_jax.io import dicom
from tests.fakes.dicom_files import write_dicom
from tests.fakes.pictures import draw_image


def test_tags_hold_hashes_and_nothing_else_of_the_person(tmp_path):
    write_dicom(
        tmp_path / "a.dcm",
        draw_image(0),
        patient="MRN0042",
        PatientAge="018M",
        PatientSex="F",
        ViewPosition="PA",
    )
    tags = dicom.read_tags(tmp_path / "a.dcm")
    assert tags.patient_id == dicom.hashed("MRN0042")
    assert (tags.projection, tags.sex, tags.age) == ("PA", "F", 1.5)
    assert tags.study_id.startswith("s") and "MRN" not in str(tags) and "DOE" not in str(tags)


def test_hash_is_fixed_for_ever():
    # printf MRN0042 | sha256sum
    assert dicom.hashed("MRN0042") == "p6a12db43474fbc05"


def test_absent_tags_are_empty_and_an_age_of_0_is_unknown(tmp_path):
    write_dicom(tmp_path / "a.dcm", draw_image(0), patient="", PatientAge="000Y")
    tags = dicom.read_tags(tmp_path / "a.dcm")
    assert tags.patient_id == tags.projection == tags.sex == "" and math.isnan(tags.age)


def test_not_dicom(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 200)
    assert not dicom.is_dicom(tmp_path / "a.dcm")
    assert dicom.read_tags(tmp_path / "a.dcm") is None


@pytest.mark.parametrize(
    ("text", "years"), [("061Y", 61), ("62", 62), ("006M", 0.5), ("026W", 26 / 52.18), ("0", 0)]
)
def test_ages(text, years):
    assert dicom.years(text) == pytest.approx(years)


@pytest.mark.parametrize("text", ["", "Y", "-3Y", "61 years", "1961"])
def test_strange_ages_are_unknown(text):
    assert math.isnan(dicom.years(text))

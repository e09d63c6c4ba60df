"""Indiana University / Open-i from its raw layouts to what a reader sees."""

import gzip

import numpy as np
import pytest

from data_builders.base import splits as split_rule
from data_builders.base.records import BuildError
from data_builders.indiana_university import reports
from tests.fakes import indiana_university as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    build_beside,
    build_layout,
    by_image,
    edit,
    positives,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout(
        "indiana_university", fake, request.param, tmp_path_factory.mktemp("indiana_university")
    )


def test_pixels_labels_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        assert example["patient_id"] == str(image.uid)
        assert example["study_id"] == f"CXR{image.uid}"
        assert example["projection"] == image.projection, image_id
        assert example["labels"].keys() == reports.HEADINGS.keys()
        if image.report.positive is None:
            assert np.isnan(list(example["labels"].values())).all()
        else:
            assert set(example["labels"].values()) <= {0.0, 1.0}
            assert positives(example) == image.report.positive, image_id
        # So both sources give the same splits.
        assert example["split"] == split_rule.by_patient(str(image.uid))
    assert built.splits.keys() == {"train", "validation", "test"}


def test_the_report_is_findings_and_impression(built):
    texts = {image_id: example["report"] for image_id, example in built.examples.items()}
    assert texts["CXR1_1_IM-0001-3001"] == (
        "FINDINGS: Heart < lungs & XXXX.\nIMPRESSION: Normal chest x-XXXX."
    )
    assert texts["CXR3_IM-1384-1001"] == "IMPRESSION: Rib fracture."
    assert texts["CXR4_IM-2050-2001"] == "FINDINGS: Clear."


def test_what_does_not_fit_together_is_listed(built):
    skipped = skipped_of(built.folder)
    row = "4.xml"
    if built.layout.get("kaggle"):
        row = row_of(built.raw, "indiana_projections.csv", "4_IM-2050-1001")
    assert skipped.pop(row) == "no such file"
    reasons = {reports.image_id(name.split(".")[0]): reason for name, reason in skipped.items()}
    expected = {
        fake.CORRUPT: "",
        fake.IN_NO_REPORT: "^in no report$",
    }
    assert_reasons(reasons, expected)


def test_compressed_tables_in_another_case_are_found(raw):
    images = fake.write(raw, kaggle=True)
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        text = (raw / name).read_bytes()
        (raw / name).unlink()
        (raw / "tables").mkdir(exist_ok=True)
        (raw / "tables" / f"{name.title()}.gz").write_bytes(gzip.compress(text))
    _, splits = build_beside("indiana_university", raw)
    assert by_image(splits).keys() == images.keys()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("2.xml", 'uId id="CXR2"', 'uId id="CXR3"', r"2.xml says it is another report"),
        ("2.xml", 'age id="CXR2_', 'age id="CXR3_', r"2.xml: a parentImage is another report"),
        ("2.xml", "</eCitation>", "", r"2.xml is broken. Unpack"),
        ("2.xml", "Cardiomegaly/b", "normal/b", r"2.xml: MeSH headings contradict"),
        ("1.xml", "<major>normal</major>", "", r"1.xml: no MeSH heading"),
        (
            "1.xml",
            "<eCitation>",
            '<!DOCTYPE e [<!ENTITY a "aaaa">]><eCitation>',
            r"1.xml declares entities",
        ),
    ],
)
def test_errors_in_a_report_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / "ecgen-radiology" / file, old, new)
    assert_build_stops("indiana_university", raw, message)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("projections", "\n2,", "\n3,", r"projections.csv, row 4: uid does not fit filename"),
        ("projections", "Lateral", "Oblique", r"row \d+: projection is none of"),
        ("projections", "2_IM-0652-2001", "2_IM-0652-1001", r"row 5: .* listed twice.*row 4"),
        ("projections", "projection", "view", r"no column 'projection'"),
        ("reports", "\n2,", "\n1,", r"reports.csv, row 3: its uid is listed twice, in .*row 2"),
        ("reports", "\n2,", "\n2000,", r"projections.csv, row 4: its uid has no row in"),
        ("reports", "MeSH", "Mesh", r"no column 'MeSH' .* Did you mean 'Mesh'\?"),
    ],
)
def test_errors_in_kaggles_tables_stop_the_build(raw, file, old, new, message):
    fake.write(raw, kaggle=True)
    edit(raw / f"indiana_{file}.csv", old, new)
    assert_build_stops("indiana_university", raw, message)


def test_a_report_in_another_encoding_hides_no_entities(tmp_path):
    path = tmp_path / "1.xml"
    path.write_text(
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE e [<!ENTITY a "aaaa">]><e>&a;</e>',
        encoding="utf-16",
    )
    with pytest.raises(BuildError, match=r"1.xml is broken"):
        reports.read_xml(path)


def test_an_absurdly_long_report_is_refused(tmp_path):
    path = tmp_path / "1.xml"
    path.write_bytes(b" " * (reports.MAX_BYTES + 1))
    with pytest.raises(BuildError, match="longer than 200,000 bytes"):
        reports.read_xml(path)


def test_images_without_reports_are_not_enough(raw):
    fake.write(raw, kaggle=True)
    (raw / "indiana_reports.csv").unlink()
    message = r"holds neither NLM's reports .* nor Kaggle's"
    assert_build_stops("indiana_university", raw, message)

"""Indiana University / Open-i from its raw layouts to what a reader sees."""

import csv
import gzip

import numpy as np
import pytest

from data_builders.indiana_university import reports
from data_builders.records import BuildError
from tests.fakes import indiana_university as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("indiana_university", data, manual_dir=raw, **settings)


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
        assert example["patient_id"] == str(film.uid)
        assert example["study_id"] == f"CXR{film.uid}"
        assert example["view"] == film.view, image_id
        assert example["labels"].keys() == reports.HEADINGS.keys()
        if film.report.positive is None:
            assert np.isnan(list(example["labels"].values())).all()
        else:
            assert set(example["labels"].values()) <= {0.0, 1.0}
            positive = {name for name, value in example["labels"].items() if value == 1}
            assert positive == film.report.positive, image_id


def test_the_report_is_findings_and_impression(built):
    _, _, splits = built
    texts = {image_id: example["report"] for image_id, example in by_image(splits).items()}
    assert texts["CXR1_1_IM-0001-3001"] == (
        "FINDINGS: Heart < lungs & XXXX.\nIMPRESSION: Normal chest x-XXXX."
    )
    assert texts["CXR3_IM-1384-1001"] == "IMPRESSION: Rib fracture."
    assert texts["CXR4_IM-2050-2001"] == "FINDINGS: Clear."


def test_no_patient_is_in_two_splits(built):
    _, _, splits = built
    patients = [{e["patient_id"] for e in examples} for examples in splits.values()]
    assert len(patients) == 3
    assert sum(map(len, patients)) == len(set.union(*patients))


def test_what_does_not_fit_together_is_listed(built):
    _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {
            reports.image_id(row["file"].split("/")[-1].split(".")[0]): row["reason"]
            for row in csv.DictReader(stream)
        }
    assert skipped.keys() == {fake.CORRUPT, fake.ABSENT, fake.IN_NO_REPORT}
    assert skipped[fake.ABSENT] == "no such file"
    assert skipped[fake.IN_NO_REPORT] == "in no report"


def test_both_sources_give_the_same_splits(tmp_path):
    splits = []
    for layout in ({}, {"kaggle": True}):
        raw = tmp_path / f"raw{len(splits)}"
        fake.write(raw, **layout)
        _, examples = build(raw, tmp_path / f"data{len(splits)}")
        splits.append({image: e["split"] for image, e in by_image(examples).items()})
    assert splits[0] == splits[1]


def test_compressed_tables_in_another_case_are_found(tmp_path):
    raw = tmp_path / "raw"
    films = fake.write(raw, kaggle=True)
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        text = (raw / name).read_bytes()
        (raw / name).unlink()
        (raw / "tables").mkdir(exist_ok=True)
        (raw / "tables" / f"{name.title()}.gz").write_bytes(gzip.compress(text))
    _, splits = build(raw, tmp_path / "data")
    assert by_image(splits).keys() == films.keys()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("2.xml", 'uId id="CXR2"', 'uId id="CXR3"', r"2.xml says it is report '3'"),
        ("2.xml", 'age id="CXR2_', 'age id="CXR3_', r"2.xml: parentImage 'CXR3_.* another report"),
        ("2.xml", "</eCitation>", "", r"2.xml is broken \(no element found"),
        ("2.xml", "Cardiomegaly/b", "normal/b", r"2.xml: MeSH headings .*'normal'.* contradict"),
        ("1.xml", "<major>normal</major>", "", r"1.xml: no MeSH heading"),
        (
            "1.xml",
            "<eCitation>",
            '<!DOCTYPE e [<!ENTITY a "aaaa">]><eCitation>',
            r"1.xml declares entities",
        ),
    ],
)
def test_errors_in_a_report_stop_the_build(tmp_path, file, old, new, message):
    raw = tmp_path / "raw"
    fake.write(raw)
    edit(raw / "ecgen-radiology" / file, old, new)
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("projections", "\n2,", "\n3,", r"projections.csv, row 4: uid '3' does not fit .*'2_IM"),
        ("projections", "Lateral", "Oblique", r"row \d+: projection 'Oblique' is none of"),
        ("projections", "2_IM-0652-2001", "2_IM-0652-1001", r"row 5: .* listed twice.*row 4"),
        ("projections", "projection", "view", r"no column 'projection'"),
        ("reports", "\n2,", "\n1,", r"reports.csv, row 3: uid '1' stands in .*row 2"),
        ("reports", "\n2,", "\n2000,", r"projections.csv, row 4: uid '2' has no row in"),
        ("reports", "MeSH", "Mesh", r"no column 'MeSH'. Did you mean 'Mesh'\?"),
    ],
)
def test_errors_in_kaggles_tables_stop_the_build(tmp_path, file, old, new, message):
    raw = tmp_path / "raw"
    fake.write(raw, kaggle=True)
    edit(raw / f"indiana_{file}.csv", old, new)
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")


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
    with pytest.raises(BuildError, match="longer than 1,000,000 bytes"):
        reports.read_xml(path)


def test_films_without_reports_are_not_enough(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw, kaggle=True)
    (raw / "indiana_reports.csv").unlink()
    with pytest.raises(BuildError, match=r"holds neither NLM's reports .* nor Kaggle's"):
        build(raw, tmp_path / "data")


def edit(path, old, new):
    text = path.read_bytes().decode("utf-8")
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("utf-8"))

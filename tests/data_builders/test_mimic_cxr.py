"""MIMIC-CXR-JPG from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from tests.fakes import mimic_cxr as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    build_beside,
    build_layout,
    by_image,
    edit,
    read_text,
    row_of,
    skipped_of,
    write_text,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("mimic_cxr", fake, request.param, tmp_path_factory.mktemp("mimic_cxr"))


def test_pixels_labels_reports_and_ids_belong_together(built):
    for _, image, example in built.paired():
        expected = {name: float(cell or "nan") for name, cell in image.labels.items()}
        np.testing.assert_equal({k: float(v) for k, v in example["labels"].items()}, expected)
        said = (example["split"], example["projection"], example["patient_id"], example["study_id"])
        assert said == (image.split, image.projection, image.subject, f"s{image.study}")
        assert example["report"] == image.report
        assert example["sex"] == "" and np.isnan(example["age"])


def test_a_study_without_labels_keeps_its_images(built):
    studies = {e["study_id"]: e["labels"] for e in built.examples.values()}
    for study in (fake.UNLABELLED_STUDY, fake.BLANK_STUDY):
        assert all(np.isnan(value) for value in studies[f"s{study}"].values())


def test_what_does_not_fit_together_is_listed(built):
    skipped = skipped_of(built.folder, parts=5)
    rows = {name: skipped.pop(name) for name in list(skipped) if "metadata.csv" in name}
    assert rows == {
        row_of(built.raw, "mimic-cxr-2.0.0-metadata", dicom_id): why
        for dicom_id, why in (
            (fake.dicom_id(*fake.ROW_WITHOUT_FILE), "no such file"),
            (fake.dicom_id(*fake.NOT_IN_SPLIT), "not in mimic-cxr-2.0.0-split.csv"),
        )
    }
    assert not {name.split("/")[-1].removesuffix(".jpg") for name in skipped} & built.images.keys()
    assert skipped[fake.FILE_WITHOUT_ROW] == "not in the metadata"
    of_subject = {name.split("/")[2].removeprefix("p"): why for name, why in skipped.items()}
    expected = {
        fake.CORRUPT[0]: "",
        "19999999": "not in the metadata",
    }
    assert_reasons(of_subject, expected)


def test_reports_lie_anywhere_when_their_folder_is_given(raw, tmp_path):
    images = fake.write(raw, reports=True)
    (raw / "mimic-cxr-reports").rename(tmp_path / "elsewhere")
    options = {"reports_dir": str(tmp_path / "elsewhere")}
    _, splits = build_beside("mimic_cxr", raw, options=options)
    said = {dicom_id: example["report"] for dicom_id, example in by_image(splits).items()}
    assert said == {dicom_id: image.report for dicom_id, image in images.items()}
    assert len(set(said.values())) > 2 and "" in said.values()


def test_a_folder_without_any_report_is_refused(raw):
    fake.write(raw)
    message = r"holds no report of any of the 20 studies"
    assert_build_stops("mimic_cxr", raw, message, options={"reports_dir": str(raw)})


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("chexpert", ",-1.0,", ",-2.0,", r"chexpert.csv.gz, row 2: .* is neither 1, 0"),
        ("chexpert", "Lung Opacity", "Airspace Opacity", "no column 'Lung Opacity'"),
        ("chexpert", "50010000", "50000000", r"row \d+: its study is listed twice, in .*row 2 too"),
        (
            "chexpert",
            "10000032,",
            "10000033,",
            "subject_id is not that of .*chexpert.csv.gz, row 2. .*not of one release",
        ),
        ("split", "validate", "valid", r"split.csv.gz, row \d+: split is none of train"),
        (
            "split",
            ",10000032,",
            ",10000033,",
            "metadata.csv.gz, row 2: its subject_id is not that of .*split.csv.gz, row 2",
        ),
        ("metadata", ",10000032,", ",10000032.0,", "row 2: subject_id has not eight digits"),
        ("metadata", ",10000032,", ",1000003²,", "row 2: subject_id has not eight digits"),
        ("metadata", "ViewPosition", "View", "no column 'ViewPosition' .* Is it column 5,"),
        ("metadata", ",50001000,", ",50011000,", "subject_id is not that of .*chexpert"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, table, old, new, message):
    fake.write(raw)
    edit(raw / f"mimic-cxr-2.0.0-{table}.csv.gz", old, new)
    assert_build_stops("mimic_cxr", raw, message)


@pytest.mark.parametrize("table", ["split", "metadata"])
def test_a_image_listed_twice_stops_the_build(raw, table):
    fake.write(raw)
    path = raw / f"mimic-cxr-2.0.0-{table}.csv.gz"
    lines = read_text(path).splitlines()
    write_text(path, "\n".join([*lines, lines[3]]))
    assert_build_stops("mimic_cxr", raw, "listed twice")


def test_a_image_of_one_table_only_is_skipped_and_named(raw):
    images = fake.write(raw)
    path = raw / "mimic-cxr-2.0.0-metadata.csv.gz"
    lines = read_text(path).splitlines()
    dicom_id = lines.pop(1).split(",")[0]
    write_text(path, "\n".join(lines))
    folder, splits = build_beside("mimic_cxr", raw)
    assert by_image(splits).keys() == images.keys() - {dicom_id}
    row = row_of(raw, "mimic-cxr-2.0.0-split", dicom_id)
    assert skipped_of(folder)[row] == "not in the metadata"


def test_missing_table_is_named(raw):
    fake.write(raw)
    (raw / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    assert_build_stops("mimic_cxr", raw, r"mimic-cxr-2.0.0-split.csv is missing")

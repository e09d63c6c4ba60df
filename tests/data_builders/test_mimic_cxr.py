"""MIMIC-CXR-JPG from its raw layouts to what a reader sees."""

import csv
import gzip

import numpy as np
import pytest

from data_builders.records import BuildError
from tests.fakes import mimic_cxr as fake
from tests.fakes.dataset import build_and_read, by_image


def build(raw, data, **settings):
    return build_and_read("mimic_cxr", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **fake.LAYOUTS[request.param])
    return films, *build(raw, data)


def test_pixels_labels_reports_and_ids_belong_together(built):
    films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for dicom_id, film in films.items():
        example = examples[dicom_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, dicom_id
        expected = {name: float(cell or "nan") for name, cell in film.labels.items()}
        np.testing.assert_equal({k: float(v) for k, v in example["labels"].items()}, expected)
        said = (example["split"], example["view"], example["patient_id"], example["study_id"])
        assert said == (film.split, film.view, film.subject, f"s{film.study}")
        assert example["report"] == film.report
        assert example["sex"] == "" and np.isnan(example["age"])


def test_a_study_without_labels_keeps_its_films(built):
    _, _, splits = built
    studies = {e["study_id"]: e["labels"] for e in by_image(splits).values()}
    for study in (fake.UNLABELLED_STUDY, fake.BLANK_STUDY):
        assert all(np.isnan(value) for value in studies[f"s{study}"].values())


def test_what_does_not_fit_together_is_listed(built):
    films, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    skipped = {name[name.index("files/") :]: reason for name, reason in reasons.items()}
    of_subject = {name.split("/")[2].removeprefix("p"): name for name in skipped}
    places = (fake.CORRUPT, fake.ROW_WITHOUT_FILE, fake.NOT_IN_SPLIT)
    assert of_subject.keys() == {*(place[0] for place in places), "19999999"}
    assert not {name.split("/")[-1].removesuffix(".jpg") for name in skipped} & films.keys()
    assert "no such file" in skipped[of_subject[fake.ROW_WITHOUT_FILE[0]]]
    assert "not in mimic-cxr-2.0.0-split.csv" in skipped[of_subject[fake.NOT_IN_SPLIT[0]]]
    assert skipped[fake.FILE_WITHOUT_ROW] == "not in the metadata"


def test_reports_lie_anywhere_when_their_folder_is_given(tmp_path):
    films = fake.write(tmp_path / "raw", reports=True)
    (tmp_path / "raw" / "mimic-cxr-reports").rename(tmp_path / "elsewhere")
    options = {"reports_dir": str(tmp_path / "elsewhere")}
    _, splits = build(tmp_path / "raw", tmp_path / "data", options=options)
    said = {dicom_id: example["report"] for dicom_id, example in by_image(splits).items()}
    assert said == {dicom_id: film.report for dicom_id, film in films.items()}
    assert len(set(said.values())) > 2 and "" in said.values()


def test_a_folder_without_any_report_is_refused(tmp_path):
    fake.write(tmp_path / "raw")
    options = {"reports_dir": str(tmp_path / "raw")}
    with pytest.raises(BuildError, match=r"holds no report of any of the 20 studies"):
        build(tmp_path / "raw", tmp_path / "data", options=options)


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("chexpert", ",-1.0,", ",-2.0,", r"chexpert.csv.gz, row 2: .* is '-2.0'; expected 1, 0"),
        ("chexpert", "Lung Opacity", "Airspace Opacity", "no column 'Lung Opacity'"),
        ("chexpert", "50010000", "50000000", r"row \d+: study 50000000 is listed twice"),
        ("chexpert", "10000032,", "10000033,", "50000000 to 10000033 in .*not of one release"),
        ("split", "validate", "valid", r"split.csv.gz, row \d+: split is 'valid'; expected train"),
        ("split", ",10000032,", ",10000033,", "belongs to 10000033 in the split file"),
        ("metadata", ",10000032,", ",10000032.0,", "row 2: subject_id is '10000032.0', expected"),
        ("metadata", "ViewPosition", "View", "no column 'ViewPosition'. Did you mean 'View'"),
        ("metadata", ",50001000,", ",50011000,", "50011000 to 10000033 in"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, table, old, new, message):
    fake.write(tmp_path)
    path = tmp_path / f"mimic-cxr-2.0.0-{table}.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))
    with pytest.raises(BuildError, match=message):
        build(tmp_path, tmp_path / "data")


@pytest.mark.parametrize("table", ["split", "metadata"])
def test_a_film_listed_twice_stops_the_build(tmp_path, table):
    fake.write(tmp_path)
    path = tmp_path / f"mimic-cxr-2.0.0-{table}.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([*lines, lines[3]]).encode()))
    with pytest.raises(BuildError, match="listed twice"):
        build(tmp_path, tmp_path / "data")


def test_a_film_of_one_table_only_is_skipped_and_named(tmp_path):
    films = fake.write(tmp_path)
    path = tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    dicom_id = lines.pop(1).split(",")[0]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    folder, splits = build(tmp_path, tmp_path / "data")
    assert by_image(splits).keys() == films.keys() - {dicom_id}
    with open(folder / "skipped.csv") as stream:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    assert reasons[dicom_id] == "in mimic-cxr-2.0.0-split.csv, not in the metadata"


def test_missing_table_is_named(tmp_path):
    fake.write(tmp_path)
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(BuildError, match=r"mimic-cxr-2.0.0-split.csv is missing"):
        build(tmp_path, tmp_path / "data")

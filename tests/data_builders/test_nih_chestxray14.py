"""NIH ChestX-ray14 from its raw layouts to what a reader sees."""

import csv
import json

import numpy as np
import pytest

from cxr_jax.data.labels import NIH_FINDINGS
from data_builders.records import BuildError
from tests.fakes import nih_chestxray14 as fake
from tests.fakes.dataset import build_and_read, by_image

LAYOUTS = {
    "nih": {},
    "kaggle": {"kaggle": True, "trailing_comma": True},
    "old": {"old": True},
}


def build(raw, data, **settings):
    return build_and_read("nih_chestxray14", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module", params=LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **LAYOUTS[request.param])
    return films, *build(raw, data)


def test_pixels_labels_and_ids_belong_together(built):
    films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        difference = example["image"][..., 0].astype(int) - film.picture
        assert np.abs(difference).mean() < 2, image_id
        positive = {name for name, value in example["labels"].items() if value == 1}
        assert positive == set(film.findings.split("|"))
        assert example["labels"].keys() == {*NIH_FINDINGS, "No Finding"}
        assert example["patient_id"] == str(film.patient)
        assert (example["split"] == "test") == film.test
    first = examples["00000001_000"]
    assert (first["age"], first["sex"], first["view"]) == (21.0, "F", "PA")
    assert np.isnan(examples[fake.IMPOSSIBLE_AGE.removesuffix(".png")]["age"])


def test_validation_is_carved_from_train_by_patient(built):
    _, _, splits = built
    patients = {split: {e["patient_id"] for e in examples} for split, examples in splits.items()}
    assert not patients["train"] & patients["validation"]
    assert 0 < len(patients["validation"]) < len(patients["train"])


def test_boxes_are_fractions_under_the_labels_name(built):
    _, _, splits = built
    examples = by_image(splits)
    boxes = examples["00000001_000"]["boxes"]
    assert [label.decode() for label in boxes["label"]] == ["Infiltration", "Mass"]
    np.testing.assert_allclose(boxes["y0"], [0.125, 0])
    np.testing.assert_allclose(boxes["x0"], [0.25, 0])
    np.testing.assert_allclose(boxes["y1"], [0.1875, 0.2])
    np.testing.assert_allclose(boxes["x1"], [0.75, 0.1])
    assert len(examples["00000001_001"]["boxes"]["label"]) == 0


def test_what_does_not_fit_together_is_listed(built):
    _, folder, _ = built
    with open(folder / "skipped.csv") as stream:
        skipped = {row["file"].split("/")[-1]: row["reason"] for row in csv.DictReader(stream)}
    assert skipped.keys() == {fake.CORRUPT, fake.ROW_WITHOUT_FILE, fake.FILE_WITHOUT_ROW}
    assert "no such file" in skipped[fake.ROW_WITHOUT_FILE]
    assert "no row in Data_Entry" in skipped[fake.FILE_WITHOUT_ROW]
    assert json.loads((folder / "metadata.json").read_text())["skipped"] == 3


def edit(raw, name, old, new):
    path = raw / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "Data_Entry_2017_v2020.csv",
            "Hernia",
            "Hernai",
            r"v2020.csv, row \d+: Finding Labels holds 'Hernai'",
        ),
        (
            "Data_Entry_2017_v2020.csv",
            "No Finding",
            "No Finding|Mass",
            r"row \d+: .* contradicts itself",
        ),
        (
            "Data_Entry_2017_v2020.csv",
            "Patient ID",
            "PatientID",
            r"no column 'Patient ID'. Did you mean 'PatientID'\?",
        ),
        (
            "Data_Entry_2017_v2020.csv",
            "00000007_000.png,",
            "00000008_001.png,",
            r"row \d+: Patient ID '7' does not fit Image Index '00000008_001.png'",
        ),
        (
            "test_list.txt",
            "00000025_000.png",
            "00000001_000.png",
            "00000001_000.png .*is in both lists",
        ),
        ("BBox_List_2017.csv", "Infiltrate", "Infiltrat", "row 2: .*'Infiltrat' is unknown"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, file, old, new, message):
    raw = tmp_path / "raw"
    raw.mkdir()
    fake.write(raw)
    edit(raw, file, old, new)
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")


def test_a_patient_in_both_lists_stops_the_build(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    fake.write(raw)
    edit(raw, "train_val_list.txt", "00000007_001.png\n", "")
    with open(raw / "test_list.txt", "a") as stream:
        stream.write("\n00000007_001.png\n")
    with pytest.raises(BuildError, match=r"1 patient stands in two splits.*00000007_00.*row \d+"):
        build(raw, tmp_path / "data")


def test_missing_list_is_named(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    fake.write(raw)
    (raw / "test_list.txt").unlink()
    with pytest.raises(BuildError, match=r"test_list.txt is missing"):
        build(raw, tmp_path / "data")

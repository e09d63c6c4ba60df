"""A person's own table: the CSV errors people make, and what its cells may say."""

import numpy as np
import pytest

from data_builders.base.records import BuildError
from data_builders.image_folder.label_table import LabelTable
from tests.fakes import image_folder as fake


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, fake.write(folder)


BAD = {
    "misspelt patient column": (
        {"patient_column": "patientid"},
        lambda rows: rows,
        r"no column 'patientid' among the 5 .*header, names. Did you mean 'patient_id'\?",
    ),
    "an image column of another name": (
        {},
        lambda rows: [{"file": row.pop("image"), **row} for row in rows],
        r"no column 'image', .*--image_column=NAME says which",
    ),
    "value outside the vocabulary": (
        {},
        lambda rows: [*rows[:2], {**rows[2], "Nodule": "MRN7"}, *rows[3:]],
        r"labels.csv: column 'Nodule': a cell in labels.csv, row 4, is neither 1 .*--recode='COL",
    ),
    "2,000 wrong cells in two columns": (
        {},
        lambda rows: [
            {**rows[0], "image": f"{i}.png", "Nodule": "MRN", "Effusion": "MRN"}
            for i in range(1000)
        ],
        r"^\S+: column 'Effusion': 1,000 cells, the first in labels.csv, row 2, are neither [^;]*; "
        r"column 'Nodule': 1,000 cells, the first in labels.csv, row 2, are neither [^;]*; or|COL",
    ),
    "patients' numbers that a spreadsheet rounded": (
        {},
        lambda rows: [{**row, "patient_id": "1.98001E+11"} for row in rows],
        r"^labels.csv, row 2: 'patient_id' was rounded by a spreadsheet",
    ),
    "grades": (
        {},
        lambda rows: [{**row, "Nodule": str(i % 4)} for i, row in enumerate(rows)],
        r"column 'Nodule': \d cells.* \(grades\? say which count: --recode='Nodule:0=0,1=0,2=1",
    ),
    "a sex that the table does not know": (
        {},
        lambda rows: [{**row, "sex": "2"} for row in rows],
        r"column 'sex': 12 cells, the first in labels.csv, row 2, are none of M, male, F.*--recode",
    ),
    "a recipe that cannot be read": (
        {"recode": "sex=F"},
        lambda rows: rows,
        "--recode is not like",
    ),
    "a recipe with a column twice": (
        {"recode": "Nodule:1=0;Nodule:0=1"},
        lambda rows: rows,
        "--recode has the column 'Nodule' twice",
    ),
    "a recipe with a cell twice": (
        {"recode": "Nodule:Ja=0,jA=1"},
        lambda rows: rows,
        "--recode says twice what a cell of 'Nodule' stands for",
    ),
    "a recipe with a number twice": (
        {"recode": "Nodule:1=0,1.0=1"},
        lambda rows: rows,
        "--recode says twice what a cell of 'Nodule' stands for",
    ),
    "two columns that could be the split": (
        {},
        lambda rows: [{**row, "Split": "train", "SPLIT": "test"} for row in rows],
        r"each of the columns \['Split', 'SPLIT'\] could be split",
    ),
    "patients that some rows leave to the header, which may name them otherwise": (
        {},
        lambda rows: [
            {**row, "patient_id": row["patient_id"] * (i % 2)} for i, row in enumerate(rows)
        ],
        r"column 'patient_id' is blank in 3 rows \(the first: labels.csv, row 2\) whose DICOM "
        "headers name a patient.*Fill these cells in, take these rows out, or empty",
    ),
    "an age with a mark of programmers": (
        {},
        lambda rows: [{**row, "Age": "2_0"} for row in rows],
        r"column 'Age': 12 cells, .* are no number of years",
    ),
    "a recipe for no column": ({"recode": "sax:2=F"}, lambda rows: rows, "no column 'sax'"),
    "a label that is no column": (
        {"label_columns": "Nodule,Efusion"},
        lambda rows: rows,
        r"no column 'Efusion'.* Is it column 3, under another name",
    ),
    "image listed twice": (
        {},
        lambda rows: [*rows, rows[0]],
        r"two rows in .*: labels.csv, row 2 and labels.csv, row \d+",
    ),
    "path out of the folder": (
        {},
        lambda rows: [{**rows[0], "image": "../secret.png"}],
        r"row 2: image is not a path inside",
    ),
    "absolute path": (
        {},
        lambda rows: [{**rows[0], "image": "/etc/image.png"}],
        r"row 2: image is not a path inside",
    ),
    "no row fits": (
        {},
        lambda rows: [{**row, "image": f"x/{row['image']}"} for row in rows],
        r"No row of .* names an image of the folder, whose first is 'broken/",
    ),
    "unknown split": (
        {},
        lambda rows: [{**row, "split": "training"} for row in rows],
        r"column 'split': 12 cells, the first in labels.csv, row 2, are none of train",
    ),
    "patient in two splits": (
        {},
        lambda rows: [
            {**row, "patient_id": "one", "split": s}
            for row, s in zip(rows[:2], ("train", "test"), strict=True)
        ],
        r"1 patient stands in two splits.*row [23].*row [23]",
    ),
    "a date of birth for an age": (
        {},
        lambda rows: [{**row, "age": "19470503"} for row in rows],
        r"column 'age': 12 cells, the first in labels.csv, row 2, are no number of years from 0",
    ),
    "age in words": (
        {},
        lambda rows: [{**row, "age": "old"} for row in rows],
        r"column 'age': 12 cells, .* are no number of years",
    ),
    "no header": (
        {},
        lambda rows: [dict(zip(rows[0].values(), row.values())) for row in rows[1:]],
        r"labels.csv: its first line holds none of the columns image, patient_id.*header",
    ),
    "pandas index": (
        {},
        lambda rows: [{"": str(i), **row} for i, row in enumerate(rows)],
        r"column 1 has no name.*index=False",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_of_the_csv_stop_the_build(raw, tmp_path, case):
    folder, images = raw
    options, change, message = BAD[case]
    names = sorted(images)
    rows = fake.write_labels(
        tmp_path / "labels.csv", names, patient_id=[f"m{i}" for i in range(len(names))]
    )
    fake.write_rows(tmp_path / "labels.csv", change(rows))
    with pytest.raises(BuildError, match=message) as error:
        fake.build(
            folder,
            tmp_path / "data",
            options={"name": "bad", "labels_csv": str(tmp_path / "labels.csv"), **options},
        )
    assert "MRN" not in str(error.value)


def read(folder, rows, **settings):
    """The rows of a table by image."""
    fake.write_rows(folder / "labels.csv", rows)
    table = LabelTable(folder / "labels.csv", "image", None, **settings)
    return table.label_names, table.match({row["image"]: folder for row in rows})


def test_yes_and_no_and_the_sexes_of_several_languages_are_known(tmp_path):
    words = {"Yes": 1.0, "FALSE": 0.0, "true": 1.0, "nein": 0.0, "uncertain": -1.0, "NaN": np.nan}
    sexes = dict(zip(("w", "M", "female", "männlich", "divers", ""), ("F", "M", "F", "M", "", "")))
    rows = [
        {"image": f"{i}.png", "Nodule": word, "sex": sex}
        for i, (word, sex) in enumerate(zip(words, sexes))
    ]
    _, found = read(tmp_path, rows)
    np.testing.assert_equal([row.labels["Nodule"] for row in found.values()], [*words.values()])
    assert [row.sex for row in found.values()] == [*sexes.values()]


def test_grades_are_recoded_and_columns_chosen(tmp_path):
    rows = [
        {"image": f"{i}.png", "Grade": str(i), "Reader, name": "MRN", "sex": "12"[i % 2]}
        for i in range(5)
    ]
    settings = {"label_columns": "Grade", "recode": "Grade:2=1,3=1,4=1;sex:1=F,2=M"}
    names, found = read(tmp_path, rows, **settings)
    assert names == ("Grade",)
    assert [row.labels["Grade"] for row in found.values()] == [0, 1, 1, 1, 1]
    assert [row.sex for row in found.values()] == list("FMFMF")
    assert read(
        tmp_path, rows, label_columns='"Reader, name"', recode="Reader, name:MRN=1;sex:1=F,2=M"
    )


def test_numbers_compare_as_numbers_and_ids_as_text(tmp_path):
    cells = ("0.0", "1.00", "2.0", "+3", "", "-1.", "0.", "NaN")
    rest = {"age": "NA", "view": "None", "sex": "null"}
    rows = [
        {"image": f"{i}.png", "patient_id": cell, "Grade": cell} | rest
        for i, cell in enumerate(cells)
    ]
    _, found = read(tmp_path, rows, recode="Grade:0=0,1=0,2=1,3.0=1;patient_id:0=MRN,2.0=MRN")
    grades = [row.labels["Grade"] for row in found.values()]
    np.testing.assert_equal(grades, [0, 0, 1, 1, np.nan, -1, 0, np.nan])
    assert [row.patient for row in found.values()] == [*cells[:2], "MRN", *cells[3:-1], ""]
    assert all(np.isnan(row.age) and not row.projection + row.sex for row in found.values())
    _, found = read(tmp_path, [{"image": "NA.png"}, {"image": "none"}])  # images may be called so
    assert [*found] == ["NA.png", "none"]
    with pytest.raises(BuildError, match=r"'Grade': 2 cells, .* \(grades\?"):
        read(tmp_path, rows)


def test_columns_are_known_in_any_case(tmp_path):
    rows = [
        {"image": "a.png", "Patient_ID": "MRN", "Split": "Test", "SEX": "w", "Age": "61", "E": "1"}
    ]
    for settings in ({}, {"label_columns": "E"}):
        names, found = read(tmp_path, rows, **settings)
        row = found["a.png"]
        assert names == ("E",)
        assert (row.patient, row.split, row.sex, row.age) == ("MRN", "test", "F", 61)
    fake.write_rows(tmp_path / "labels.csv", [{"Image": "a.png", "E": "1"}])
    table = LabelTable(tmp_path / "labels.csv", "image", None)
    assert (table.image_column, table.label_names) == ("Image", ("E",))
    names, found = read(tmp_path, [{"image": "a.png", "Sex": "1"}], label_columns="Sex")
    assert found["a.png"].labels == {"Sex": 1} and found["a.png"].sex == ""


def test_a_field_too_many_does_not_move_labels(raw, tmp_path):
    folder, images = raw
    name = sorted(images)[0]
    (tmp_path / "labels.csv").write_text(f"image,Nodule\n{name},0,1\n")
    with pytest.raises(BuildError, match=r"labels.csv, row 2 has 3 fields, the header 2"):
        fake.build(
            folder,
            tmp_path / "data",
            options={"name": "bad", "labels_csv": str(tmp_path / "labels.csv")},
        )


def match(folder, image, *names):
    (folder / "labels.csv").write_text(f"image,Nodule\n{image},1\na.jpg,0\n")
    table = LabelTable(folder / "labels.csv", "image", None)
    return set(table.match({name: folder / name for name in ("a.jpg", *names)}))


def test_a_row_without_suffix_fits_one_image_only(tmp_path):
    assert match(tmp_path, "p1", "p1.DCM", "p1.2") == {"p1.DCM", "a.jpg"}
    assert match(tmp_path, "1.2", "1.2.3", "1.2.png") == {"1.2.png", "a.jpg"}
    assert match(tmp_path, "p1", "p1.1") == {"p1", "a.jpg"}  # another image's number
    assert match(tmp_path, "b", "b.png/c", "b") == {"b", "a.jpg"}
    message = r"labels.csv, row 2: image could be x/b.jpg or x/b.png"
    with pytest.raises(BuildError, match=message):
        match(tmp_path, "x/b", "x/b.jpg", "x/b.png")

"""A person's own folder: images of every kind, and the CSV errors people make."""

import csv
import hmac
import unicodedata

import numpy as np
import pytest
from PIL import Image

from cxr_jax.data.splits import load_split
from cxr_jax.io import dicom
from data_builders.base.records import BuildError
from data_builders.build import check as check_raw
from data_builders.image_folder.label_table import LabelTable
from tests.fakes import image_folder as fake
from tests.fakes.dataset import build_and_read, by_image, skipped_of
from tests.fakes.pictures import draw_image


def build(raw, data, **settings):
    return build_and_read("image_folder", data, manual_dir=raw, **settings)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, fake.write(folder)


def sealed(data, patient):
    """The id as HMAC-SHA256 with the project's secret; of its hash, which splits are made of."""
    message = b"patient/image_folder/" + dicom.hashed(patient).encode()
    key = (data / ".salt").read_text().strip().encode()
    return "p" + hmac.new(key, message, "sha256").hexdigest()[:16]


def image_id(name):
    return name if name == fake.SUFFIXLESS else name.rsplit(".", 1)[0]


def test_without_labels_everything_readable_is_train(raw, tmp_path):
    folder, images = raw
    version, splits = build(folder, tmp_path)
    assert version == tmp_path / "image_folder/256/1.0.0" and splits.keys() == {"train"}
    examples = by_image(splits)
    assert examples.keys() == {image_id(name) for name in images}
    for name, picture in images.items():
        example = examples[image_id(name)]
        assert "labels" not in example
        assert np.abs(example["image"][..., 0].astype(int) - picture).mean() < 3, name
    inverted = examples["dicom/inverted"]
    assert inverted["patient_id"] == sealed(tmp_path, "MRN0008")
    assert inverted["patient_id"] == examples["dicom/twelve"]["patient_id"]
    assert (inverted["projection"], inverted["sex"], inverted["age"]) == ("PA", "F", 61.0)
    unknown = [e["patient_id"] for e in examples.values() if not e["image_id"].startswith("dicom")]
    assert len(set(unknown)) == len(unknown)
    with open(version / "skipped.csv") as stream:
        skipped = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    assert skipped.keys() == fake.SKIPPED.keys()
    for name, reason in fake.SKIPPED.items():
        assert reason in skipped[name]


def test_labels_follow_their_image(raw, tmp_path):
    folder, images = raw
    names = sorted(images)
    patients = [f"MRN{index // 2:04}" for index in range(len(names))]
    # Written in another order than the folder's, and one name without its suffix.
    order = np.random.default_rng(0).permutation(len(names))
    names, patients = [names[i] for i in order], [patients[i] for i in order]
    rows = fake.write_labels(tmp_path / "labels.csv", names, patient_id=patients)
    rows[3]["image"] = image_id(rows[3]["image"])
    fake.write_rows(tmp_path / "labels.csv", rows)
    _, splits = build(
        folder,
        tmp_path / "data",
        options={"name": "ward7", "labels_csv": str(tmp_path / "labels.csv")},
    )
    examples = by_image(splits)
    assert len(examples) == len(rows)
    for row, name, patient in zip(rows, names, patients, strict=True):
        example = examples[image_id(name)]
        assert np.abs(example["image"][..., 0].astype(int) - images[name]).mean() < 3
        assert example["patient_id"] == sealed(tmp_path / "data", patient)
        for label in fake.LABELS:
            expected = float(row[label] or "nan")
            np.testing.assert_equal(float(example["labels"][label]), expected)
    of_patient = {}
    for example in examples.values():
        assert of_patient.setdefault(example["patient_id"], example["split"]) == example["split"]


def test_splits_of_the_csv_and_columns_of_other_names(raw, tmp_path):
    folder, images = raw
    names = sorted(images)
    split = ["Train" if index % 3 else "test" for index in range(len(names))]
    rows = fake.write_labels(
        tmp_path / "labels.csv", names, MRN=[f"m{i}" for i in range(len(names))], split=split
    )
    rows = [{"file": row.pop("image"), **row, "age": "61.5", "sex": "male"} for row in rows]
    fake.write_rows(tmp_path / "labels.csv", rows)
    options = {
        "name": "named",
        "labels_csv": str(tmp_path / "labels.csv"),
        "image_column": "file",
        "patient_column": "MRN",
    }
    _, splits = build(folder, tmp_path / "data", options=options)
    examples = by_image(splits)
    for index, name in enumerate(names):
        example = examples[image_id(name)]
        assert (example["split"] == "test") == (split[index] == "test")
        assert example["labels"].keys() == set(fake.LABELS)
        assert (example["age"], example["sex"]) == (61.5, "M")


BAD = {
    "misspelt patient column": (
        {"patient_column": "patientid"},
        lambda rows: rows,
        r"no column 'patientid' among the 5 .*header, names. Did you mean 'patient_id'\?",
    ),
    "misspelt image column": (
        {},
        lambda rows: [{"Image": row.pop("image"), **row} for row in rows],
        r"no column 'image' .* Did you mean 'Image'\?",
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
        build(
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
    cells = ("0.0", "1.00", "2.0", "+3", "", "-1.", "0.")
    rows = [
        {"image": f"{i}.png", "patient_id": cell, "age": "NA", "Grade": cell}
        for i, cell in enumerate(cells)
    ]
    _, found = read(tmp_path, rows, recode="Grade:0=0,1=0,2=1,3.0=1;patient_id:0=MRN,2.0=MRN")
    grades = [row.labels["Grade"] for row in found.values()]
    np.testing.assert_equal(grades, [0, 0, 1, 1, np.nan, -1, 0])
    assert [row.patient for row in found.values()] == [*cells[:2], "MRN", *cells[3:]]
    assert all(np.isnan(row.age) for row in found.values())
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
    names, found = read(tmp_path, [{"image": "a.png", "Sex": "1"}], label_columns="Sex")
    assert found["a.png"].labels == {"Sex": 1} and found["a.png"].sex == ""


def test_blank_patients_without_a_header_are_not_known(raw, tmp_path):
    folder, images = raw
    names = [name for name in sorted(images) if not name.startswith("dicom")]
    patients = ["MRN" * (i % 2) for i in range(len(names))]
    split = ["train" if i % 4 else "test" for i in range(len(names))]
    fake.write_labels(tmp_path / "labels.csv", names, Patient_ID=patients, Split=split)
    options = {"labels_csv": str(tmp_path / "labels.csv")}
    text = check_raw("image_folder", folder, options=options, num_workers=0)
    assert f"of 4 of the {len(names)} images the person is not known" in text


@pytest.mark.parametrize(("table", "disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_both_forms_of_unicode(tmp_path, table, disk):
    raw = tmp_path / unicodedata.normalize(disk, "Süd")
    raw.mkdir()
    rows = []
    for number in range(12):
        name = unicodedata.normalize(disk, f"Größe é{number}.png")
        Image.fromarray(draw_image(number, 32, 32)).save(raw / name)
        # One patient, written in both forms.
        patient = unicodedata.normalize(("NFC", "NFD")[number % 2], "Zoé")
        row = {"image": f"Größe é{number}.png", "Infiltrat älter": str(number % 2)}
        row = {
            unicodedata.normalize(table, k): unicodedata.normalize(table, v) for k, v in row.items()
        }
        rows.append(row | {unicodedata.normalize(table, "Né"): patient})
    fake.write_rows(tmp_path / "labels.csv", rows)
    options = {"labels_csv": str(tmp_path / "labels.csv"), "name": "names"}
    options["patient_column"] = unicodedata.normalize(disk, "Né")
    folder, splits = build(raw, tmp_path / "data", options=options)
    examples = by_image(splits)
    assert examples.keys() == {f"Größe é{number}" for number in range(12)}
    assert len({example["patient_id"] for example in examples.values()}) == 1
    assert not skipped_of(folder)
    (split,) = splits
    task = unicodedata.normalize("NFD", "Infiltrat älter")
    loaded = load_split("names", str(tmp_path / "data"), split, task)
    assert {int(name[7:]): target for name, (target,) in zip(loaded.image_ids, loaded.targets)} == {
        number: number % 2 for number in range(12)
    }


def test_a_build_says_which_labels_cannot_be_scored_and_whose_person_is_unknown(raw, tmp_path):
    folder, images = raw
    names = sorted(images)
    split = ["train"] * (len(names) - 6) + ["validation"] * 3 + ["test"] * 3
    rows = fake.write_labels(tmp_path / "labels.csv", names, split=split)
    for row in rows:
        row |= {"Nodule": "0", "Effusion": "1" if row["split"] == "validation" else "0"}
    fake.write_rows(tmp_path / "labels.csv", rows)
    options = {"labels_csv": str(tmp_path / "labels.csv"), "label_columns": "Nodule,Effusion"}
    text = check_raw("image_folder", folder, options=options, num_workers=0)
    for said in (
        "validation has no positive image of Nodule; validation has no negative image of Effusion; "
        "test has no positive image of Nodule, Effusion: without both, a label cannot be chosen",
        "What helps: more patients",
        "of 7 of the 12 images the person is not known: one person's images may be in train",
        "Name a column of patients (patient_id, or --patient_column)",
    ):
        assert said in text, text


def test_a_check_does_not_say_that_absent_images_are_there(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(draw_image(1)).save(tmp_path / "raw" / name)
    options = {"labels_csv": str(tmp_path / "labels.csv")}

    def check(*names):
        fake.write_labels(tmp_path / "labels.csv", names)
        lines = check_raw("image_folder", tmp_path / "raw", options=options, num_workers=0)
        return lines.splitlines()

    assert "  every listed image is there" in check("a.png", "b.png")
    lines = check("a.png", "b.png", "no.png")
    assert "  1 give no image: labels.csv, row 4 (its image is not a file of the folder)" in lines
    assert "  every other listed image is there" in lines


def test_a_field_too_many_does_not_move_labels(raw, tmp_path):
    folder, images = raw
    name = sorted(images)[0]
    (tmp_path / "labels.csv").write_text(f"image,Nodule\n{name},0,1\n")
    with pytest.raises(BuildError, match=r"labels.csv, row 2 has 3 fields, the header 2"):
        build(
            folder,
            tmp_path / "data",
            options={"name": "bad", "labels_csv": str(tmp_path / "labels.csv")},
        )


def test_two_images_of_one_name_are_refused(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw)
    (raw / "png/grey.jpg").write_bytes((raw / "jpeg/plain.jpg").read_bytes())
    message = r"one id, which is the path without.*: png/grey.jpg and png/grey.png. If .* rename"
    with pytest.raises(BuildError, match=message):
        build(raw, tmp_path / "data")
    fake.write_labels(tmp_path / "labels.csv", ["png/grey.jpg"])
    options = {"labels_csv": str(tmp_path / "labels.csv")}
    assert "every other listed image" in check_raw("image_folder", raw, None, options, 0)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/notes.txt").write_text("none")
    with pytest.raises(BuildError, match="holds no PNG, JPEG or DICOM file"):
        build(tmp_path / "raw", tmp_path / "data")


@pytest.mark.parametrize("inside", ["", "built", "a/built"])
def test_what_was_built_into_the_folder_is_no_image(tmp_path, inside):
    images, data = fake.write(tmp_path), tmp_path / inside
    for name in ("first", "second"):
        version, splits = build(tmp_path, data, options={"name": name})
        assert (version / "contact_sheet.png").exists()
        assert by_image(splits).keys() == {image_id(image) for image in images}


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

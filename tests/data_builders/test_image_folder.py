"""A person's own folder: images of every kind, their patients, splits and labels."""

import csv
import hmac
import io
import unicodedata

import numpy as np
import pytest
from PIL import Image

from cxr_jax.data.splits import load_split
from cxr_jax.io import dicom
from data_builders.base import counts
from data_builders.base.records import BuildError
from data_builders.build import check as check_raw
from tests.fakes import image_folder as fake
from tests.fakes.dataset import by_image, skipped_of
from tests.fakes.pictures import draw_image


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, fake.write(folder)


def sealed(data, patient):
    """The id as HMAC-SHA256 with the project's secret; of its hash, which splits are made of."""
    message = b"patient/image_folder/" + dicom.hashed(patient).encode()
    key = (data / ".salt").read_text().strip().encode()
    return "p" + hmac.new(key, message, "sha256").hexdigest()[:16]


def test_without_labels_everything_readable_is_train(raw, tmp_path):
    folder, images = raw
    version, splits = fake.build(folder, tmp_path)
    assert version == tmp_path / "image_folder/256/1.0.0" and splits.keys() == {"train"}
    examples = by_image(splits)
    assert examples.keys() == {fake.image_id(name) for name in images}
    for name, picture in images.items():
        example = examples[fake.image_id(name)]
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
    rows[3]["image"] = fake.image_id(rows[3]["image"])
    fake.write_rows(tmp_path / "labels.csv", rows)
    _, splits = fake.build(
        folder,
        tmp_path / "data",
        options={"name": "ward7", "labels_csv": str(tmp_path / "labels.csv")},
    )
    examples = by_image(splits)
    assert len(examples) == len(rows)
    for row, name, patient in zip(rows, names, patients, strict=True):
        example = examples[fake.image_id(name)]
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
    for row in rows:
        row["text"] = f"FINDINGS: none in {row['file']}.\nIMPRESSION: normal."
    rows[0]["text"] = ""
    fake.write_rows(tmp_path / "labels.csv", rows)
    options = {
        "name": "named",
        "report_column": "text",
        "labels_csv": str(tmp_path / "labels.csv"),
        "image_column": "file",
        "patient_column": "MRN",
    }
    _, splits = fake.build(folder, tmp_path / "data", options=options)
    examples = by_image(splits)
    for index, name in enumerate(names):
        example = examples[fake.image_id(name)]
        assert (example["split"] == "test") == (split[index] == "test")
        assert example["labels"].keys() == set(fake.LABELS)
        assert (example["age"], example["sex"]) == (61.5, "M")
        assert example["report"] == rows[index]["text"]


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
    folder, splits = fake.build(raw, tmp_path / "data", options=options)
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


def test_two_images_of_one_name_are_refused(tmp_path):
    raw = tmp_path / "raw"
    fake.write(raw)
    (raw / "png/grey.jpg").write_bytes((raw / "jpeg/plain.jpg").read_bytes())
    message = r"one id, which is the path without.*: png/grey.jpg and png/grey.png. If .* rename"
    with pytest.raises(BuildError, match=message):
        fake.build(raw, tmp_path / "data")
    fake.write_labels(tmp_path / "labels.csv", ["png/grey.jpg"])
    options = {"labels_csv": str(tmp_path / "labels.csv")}
    assert "every other listed image" in check_raw("image_folder", raw, None, options, 0)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/notes.txt").write_text("none")
    with pytest.raises(BuildError, match="holds no PNG, JPEG or DICOM file"):
        fake.build(tmp_path / "raw", tmp_path / "data")


@pytest.mark.parametrize("inside", ["", "built", "a/built"])
def test_what_was_built_into_the_folder_is_no_image(tmp_path, inside):
    images, data = fake.write(tmp_path), tmp_path / inside
    for name in ("first", "second"):
        version, splits = fake.build(tmp_path, data, options={"name": name})
        assert (version / "contact_sheet.png").exists()
        assert by_image(splits).keys() == {fake.image_id(image) for image in images}


def test_masks_lie_in_a_folder_each_and_follow_their_image(tmp_path):
    raw, masks = tmp_path / "raw", tmp_path / "raw/masks"
    (raw / "2019").mkdir(parents=True)
    found = {}
    for number in range(12):
        image_id = f"2019/a{number}"
        Image.fromarray(draw_image(number)).save(raw / f"{image_id}.png")
        found[image_id] = draw_image(number + 50) > 128
        found[image_id][0, 0], found[image_id][0, 1] = True, False
        (masks / "Lungs/2019").mkdir(parents=True, exist_ok=True)
        Image.fromarray(200 * found[image_id].astype(np.uint8)).save(
            masks / f"Lungs/{image_id}.gif"
        )
    (masks / "Heart/2019").mkdir(parents=True)
    rows, columns = draw_image(3).shape
    for name, size in (("a3", rows), ("a4", 2 * rows), ("b9", rows)):  # the last of no image
        Image.fromarray(np.zeros((size, columns), np.uint8)).save(masks / f"Heart/2019/{name}.png")
    given = {"name": "own", "masks_dir": str(masks)}
    given = dict(config_name="full", options=given, max_skipped=0.2)
    version, splits = fake.build(raw, tmp_path / "data", **given)
    examples = by_image(splits)
    assert len(splits) > 1 and examples.keys() == found.keys()
    assert not len(examples["2019/a4"]["masks"]["mask"])  # kept, and listed
    del found["2019/a4"]
    for image_id, mask in found.items():
        stored = examples[image_id]["masks"]
        pixels = [np.asarray(Image.open(io.BytesIO(png))) for png in stored["mask"]]
        held = dict(zip([name.decode() for name in stored["label"]], pixels))
        assert held.keys() == ({"Lungs", "Heart"} if image_id.endswith("a3") else {"Lungs"})
        np.testing.assert_array_equal(held["Lungs"] > 0, mask)
        assert not held.get("Heart", np.zeros(1)).any()
    skipped = skipped_of(version, 3)
    assert skipped.pop("Heart/2019/b9.png") == "a mask of no image"
    ((name, reason),) = skipped.items()
    assert name.endswith("2019/a4.png")
    assert reason.startswith("kept without masks: its mask of Heart has another shape")
    said = "skipped: 1 (listed in skipped.csv there); 1 kept without their masks\n"
    assert said in counts.describe_dataset(version)
    split = load_split("own/full", str(tmp_path / "data"), "train", or_masks=True)
    assert split.targets.shape == (len(splits["train"]), 0)
    with pytest.raises(ValueError, match="dataset own/full has no labels"):
        load_split("own/full", str(tmp_path / "data"), "train")


@pytest.mark.parametrize(
    ("file", "greys", "message"),
    [
        ("Lungs.png", 250, "holds no folder of PNG or GIF files"),
        ("Lungs/b.png", 250, "Lungs: none of its 1 files is called as an image"),
        ("Lungs/a.png", 250, "its mask of Lungs has 250 grey values"),
        ("Lungs/a.png", 2, "its mask of Lungs has 2 grey values, not black and another"),
    ],
)
def test_masks_that_are_none_are_named(tmp_path, file, greys, message):
    raw, masks = tmp_path / "raw", tmp_path / "masks"
    raw.mkdir()
    Image.fromarray(draw_image(1)).save(raw / "a.png")
    (masks / file).parent.mkdir(parents=True)
    drawn = 1 + np.arange(draw_image(1).size).reshape(draw_image(1).shape) % greys
    Image.fromarray(drawn.astype(np.uint8)).save(masks / file)
    with pytest.raises(BuildError, match=message):
        fake.build(raw, tmp_path / "data", options={"masks_dir": str(masks)}, max_skipped=0.0)

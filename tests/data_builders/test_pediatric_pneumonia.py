"""Pediatric pneumonia from its raw layout to what a reader sees."""

import json
import shutil

import pytest

from tests.fakes import pediatric_pneumonia as fake
from tests.fakes.dataset import (
    assert_build_stops,
    build_beside,
    build_layout,
    grey_levels_apart,
    patients_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pediatric_pneumonia")
    settings = {"config_name": "full", "max_skipped": 0.02}
    return build_layout("pediatric_pneumonia", fake, request.param, folder, **settings)


def test_pixels_and_labels_belong_together(built):
    left_out = {fake.TRUNCATED.removesuffix(".jpeg"), fake.NAMELESS.removesuffix(".jpeg")}
    assert built.examples.keys() == built.images.keys() - left_out
    for image_id, example in built.examples.items():
        assert grey_levels_apart(example, built.images[image_id]) < 3, image_id
        assert example["labels"] == {"Pneumonia": float("PNEUMONIA" in image_id)}
        assert len(example["phash"]) == 16 and example["projection"] == "AP"


def test_splits_are_the_owners_and_patients_stay_together(built):
    images, patients = built.examples, patients_of(built.splits)
    assert len(patients["train"] | patients["validation"]) == 2 * fake.NUM_PATIENTS + 2
    assert not patients["train"] & patients["validation"]
    assert patients["validation"] and patients["test"] == {
        *(f"test/person{n}" for n in range(1, 6)),
        *(f"test/IM-{n:04}" for n in range(1, 6)),
    }
    assert all(
        (e["split"] == "test") == image_id.startswith("test/") for image_id, e in images.items()
    )
    assert images["train/PNEUMONIA/person8_virus_800"]["patient_id"] == "train/person8"
    assert images["train/PNEUMONIA/person8_virus_801"]["patient_id"] == "train/person8"
    assert images["train/NORMAL/NORMAL2-IM-0002-0001-0002"]["patient_id"] == "train/NORMAL2-IM-0002"
    assert images["val/PNEUMONIA/person1946_bacteria_4874"]["split"] in ("train", "validation")


def test_skipped_and_metadata(built):
    skipped = skipped_of(built.folder, parts=4)
    assert skipped.keys() == {f"chest_xray/{fake.TRUNCATED}", fake.NAMELESS}
    metadata = json.loads((built.folder / "metadata.json").read_text())
    assert metadata["skipped"] == 2
    assert metadata["label_names"] == ["Pneumonia"] and metadata["task"] == "binary"


def test_a_folder_without_the_images_says_what_belongs_there(raw):
    (raw / "train").mkdir()
    message = r"holds no train/NORMAL.*Unpack Kaggle's"
    assert_build_stops("pediatric_pneumonia", raw, message)


def test_pictures_that_are_not_the_owners_are_listed(raw):
    fake.write(raw)
    root = raw / "chest_xray"
    image = (root / "train/NORMAL/IM-0001-0001.jpeg").read_bytes()
    others = ("train/NORMAL/IM-0009-0009.png", "test/COVID/IM-0001-0001.jpeg", "extra/1.bmp")
    others += ("train/IM-0003-0001.jpeg", "train/NORMAL/deeper/IM-0003-0001.jpeg")
    for name in others:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(image)
    (root / "notes.txt").write_text("no picture")
    folder, _ = build_beside("pediatric_pneumonia", raw)
    skipped = skipped_of(folder, parts=9)
    assert "not a JPEG by its name" in skipped.pop(others[0])
    for name in others[1:]:
        assert "not in a folder train or val or test with" in skipped.pop(name)
    assert skipped.keys() == {f"chest_xray/{fake.TRUNCATED}", fake.NAMELESS}


def test_the_tree_that_is_packed_twice_counts_once(raw):
    images = fake.write(raw)
    root = raw / "chest_xray"
    twin = root / "chest_xray"
    shutil.copytree(root / "test", twin / "test")
    shutil.copytree(root / "train", twin / "train")
    _, splits = build_beside("pediatric_pneumonia", raw)
    assert sum(map(len, splits.values())) == len(images) - 2
    other = twin / "test/NORMAL/IM-0002-0001.jpeg"
    other.write_bytes((root / "test/NORMAL/IM-0003-0001.jpeg").read_bytes())
    message = "IM-0002-0001.jpeg and .*/IM-0002-0001.jpeg differ"
    assert_build_stops("pediatric_pneumonia", raw, message, overwrite=True)


@pytest.mark.parametrize("name", ["train/NORMAL", "test/PNEUMONIA"])
def test_an_empty_class_stops_the_build(raw, name):
    fake.write(raw)
    (raw / "chest_xray" / name).rename(raw / "elsewhere")
    assert_build_stops("pediatric_pneumonia", raw, f"{name} holds no image")

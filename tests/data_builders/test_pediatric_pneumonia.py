"""Pediatric pneumonia from its raw layout to what a reader sees."""

import csv
import json

import numpy as np
import pytest

from data_builders.records import BuildError
from tests.fakes import pediatric_pneumonia as fake
from tests.fakes.dataset import build_and_read, by_image


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    pictures = fake.write(raw)
    folder, splits = build_and_read(
        "pediatric_pneumonia", data, manual_dir=raw, config_name="full", max_skipped=0.02
    )
    return pictures, folder, splits


def test_pixels_and_labels_belong_together(built):
    pictures, _, splits = built
    films = by_image(splits)
    left_out = {fake.TRUNCATED.removesuffix(".jpeg"), fake.NAMELESS.removesuffix(".jpeg")}
    assert films.keys() == pictures.keys() - left_out
    for image_id, example in films.items():
        difference = example["image"][..., 0].astype(int) - pictures[image_id]
        assert np.abs(difference).mean() < 3, image_id
        assert example["labels"] == {"Pneumonia": float("PNEUMONIA" in image_id)}
        assert len(example["phash"]) == 16 and example["view"] == "AP"


def test_splits_are_the_owners_and_patients_stay_together(built):
    _, _, splits = built
    films = by_image(splits)
    patients = {split: {e["patient_id"] for e in examples} for split, examples in splits.items()}
    assert len(patients["train"] | patients["validation"]) == 2 * fake.NUM_PATIENTS + 2
    assert not patients["train"] & patients["validation"]
    assert patients["validation"] and patients["test"] == {
        *(f"test/person{n}" for n in range(1, 6)),
        *(f"test/IM-{n:04}" for n in range(1, 6)),
    }
    assert all(
        (e["split"] == "test") == image_id.startswith("test/") for image_id, e in films.items()
    )
    assert films["train/PNEUMONIA/person8_virus_800"]["patient_id"] == "train/person8"
    assert films["train/PNEUMONIA/person8_virus_801"]["patient_id"] == "train/person8"
    assert films["train/NORMAL/NORMAL2-IM-0002-0001-0002"]["patient_id"] == "train/NORMAL2-IM-0002"
    assert films["val/PNEUMONIA/person1946_bacteria_4874"]["split"] in ("train", "validation")


def test_skipped_and_metadata(built):
    _, folder, splits = built
    with open(folder / "skipped.csv") as stream:
        skipped = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    assert skipped.keys() == {f"chest_xray/{fake.TRUNCATED}", fake.NAMELESS}
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["skipped"] == 2
    assert metadata["label_names"] == ["Pneumonia"] and metadata["task"] == "binary"
    for split, examples in splits.items():
        counts = metadata["counts"][split]
        assert counts["images"] == len(examples)
        assert counts["patients"] == len({e["patient_id"] for e in examples})
        assert counts["positives"]["Pneumonia"] == sum(e["labels"]["Pneumonia"] for e in examples)


def test_a_folder_without_the_films_says_what_belongs_there(tmp_path):
    (tmp_path / "raw/train").mkdir(parents=True)
    with pytest.raises(BuildError, match=r"holds no train/NORMAL.*Unpack Kaggle's"):
        build_and_read("pediatric_pneumonia", tmp_path / "data", manual_dir=tmp_path / "raw")

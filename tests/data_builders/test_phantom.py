"""The builder: built without raw data, in TFDS's layout, patients apart, labels balanced enough."""

import io
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_builders import build
from data_builders.phantom import drawing
from data_builders.phantom.findings import LABEL_NAMES
from data_builders.phantom.phantom_dataset_builder import Builder

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    return build.build("phantom", data_dir, config_name="tiny", num_workers=0, progress=False)


def rows(folder, split):
    undecoded = {"image": tfds.decode.SkipDecoding()}
    return list(tfds.builder_from_directory(folder).as_data_source(split, decoders=undecoded))


def test_built_in_tfds_layout_with_metadata(folder):
    assert folder.parts[-3:] == ("phantom", "tiny", "1.1.0")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["label_names"] == list(LABEL_NAMES)
    assert metadata["task"] == "multilabel" and metadata["resolution"] == 96
    images = {split: counts["images"] for split, counts in metadata["counts"].items()}
    assert images == {"train": 36, "validation": 24, "test": 24}


def test_stored_images_are_the_drawn_ones(folder):
    for row in rows(folder, "validation")[:5]:
        patient, number = (int(part) for part in row["image_id"].decode()[1:].split("_"))
        anatomy, taken = drawing.image_parameters(0, patient, number)
        image = np.asarray(Image.open(io.BytesIO(row["image"])))
        np.testing.assert_array_equal(image, drawing.render(anatomy, taken, 96))
        assert row["labels"] == drawing.labels(anatomy, taken)
        assert (row["view"].decode(), row["sex"].decode()) == (taken.view, anatomy.sex)
        assert row["age"] == anatomy.age
        boxes = drawing.boxes(anatomy, taken, 96)
        assert [label.decode() for label in row["boxes"]["label"]] == [box.label for box in boxes]
        np.testing.assert_allclose(row["boxes"]["x1"], [box.x1 for box in boxes], atol=1e-6)


def test_patients_stay_in_one_split_and_have_three_images(folder):
    patients = {}
    for split in SPLITS:
        ids = [row["patient_id"] for row in rows(folder, split)]
        patients[split] = set(ids)
        assert all(ids.count(one) == 3 for one in patients[split])
    assert not patients["train"] & patients["validation"]
    assert not patients["test"] & (patients["train"] | patients["validation"])


@pytest.mark.parametrize("config", Builder.BUILDER_CONFIGS, ids=lambda config: config.name)
def test_every_label_has_both_classes_in_every_split(config):
    first = 0
    for split, count in config.patients:
        patients = range(first, first + count)
        labels = [
            list(drawing.labels(*drawing.image_parameters(config.seed, patient, image)).values())
            for patient in patients
            for image in range(config.images_per_patient)
        ]
        positive = np.sum(labels, axis=0)
        assert (positive >= 2).all() and (positive <= len(labels) - 2).all(), split
        first += count


def test_sizes_of_the_default_config():
    assert Builder.BUILDER_CONFIGS[0].name == "96"
    sizes = {split: 3 * count for split, count in Builder.BUILDER_CONFIGS[0].patients}
    assert sizes == {"train": 3000, "validation": 501, "test": 999}

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cxr_jax.data import images
from cxr_jax.data.splits import image_batches, load_split
from tests.fakes import image_folder
from tests.fakes.dataset import build_and_read


def test_rows_keep_image_and_label_together(data_dir):
    split = load_split("phantom/tiny", str(data_dir), "test")
    originals = np.concatenate(list(image_batches(split, 7, 32)))
    examples = list(tfds.builder_from_directory(split.source.folder).as_data_source("test"))
    assert len(originals) == len(examples) == len(split.image_ids)
    kept = split.take(np.array([5, 2]))
    for row, position in enumerate((5, 2)):
        example = examples[position]
        assert kept.image_ids[row] == example["image_id"].decode()
        assert kept.patient_ids[row] == example["patient_id"].decode()
        expected = [example["labels"][name] for name in split.label_names]
        np.testing.assert_array_equal(kept.targets[row], expected)
        encoded = split.source.records[position]["image"]
        np.testing.assert_array_equal(originals[position], images.decode_square(encoded, 32))
    np.testing.assert_array_equal(next(image_batches(kept, 2, 32)), originals[[5, 2]])


def test_no_image_is_dropped_from_a_last_short_batch(data_dir):
    split = load_split("phantom/tiny", str(data_dir), "test")
    sizes = [len(batch) for batch in image_batches(split, 7, 16)]
    assert sum(sizes) == len(split.rows) and sizes[-1] == len(split.rows) % 7


def test_unlabelled_dataset_cannot_be_scored(tmp_path):
    image_folder.write(tmp_path / "images")
    build_and_read("image_folder", tmp_path / "data", manual_dir=tmp_path / "images")
    with pytest.raises(ValueError, match=r"no labels, so nothing can be scored.*--labels_csv"):
        load_split("image_folder", str(tmp_path / "data"), "train")


def test_uncertain_and_missing_labels_are_counted_apart(tmp_path):
    images = image_folder.write(tmp_path / "images")
    names = sorted(images)
    rows = image_folder.write_labels(
        tmp_path / "labels.csv", names, split=["train"] * (len(names) - 1) + ["test"]
    )
    build_and_read(
        "image_folder",
        tmp_path / "data",
        manual_dir=tmp_path / "images",
        options={"labels_csv": str(tmp_path / "labels.csv")},
    )
    policies = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan}
    for policy, value in policies.items():
        split = load_split(
            "image_folder", str(tmp_path / "data"), "train", changes={"uncertain_as": policy}
        )
        raw = {row["image"].rsplit(".", 1)[0]: row for row in rows}
        raw |= {row["image"]: row for row in rows}  # an id may end in a number that is no suffix
        for position, image_id in enumerate(split.image_ids):
            row = raw[image_id]
            for k, label in enumerate(split.label_names):
                expected = {"1": 1.0, "0": 0.0, "": np.nan, "-1": value}[row[label]]
                np.testing.assert_equal(float(split.targets[position, k]), expected)
                assert split.uncertain[position, k] == (row[label] == "-1")

"""Labels and boxes of whole splits, as their records hold them."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cxr_jax.data import images
from cxr_jax.data.source import load_source
from cxr_jax.data.splits import image_batches, load_boxes, load_split, patient_subset
from tests.fakes import image_folder
from tests.fakes.dataset import build_and_read

_PATIENTS = [f"p{i // 3}" for i in range(600)]  # 200 patients of 3 images


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


@pytest.mark.parametrize("seed", [0, 1])
def test_fractions_nest_and_keep_patients_whole(seed):
    kept = [set(patient_subset(_PATIENTS, f, seed).tolist()) for f in (0.01, 0.1, 0.5, 1.0)]
    assert [len(rows) for rows in kept] == [6, 60, 300, 600]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    for rows in kept:
        inside = {_PATIENTS[i] for i in rows}
        assert rows == {i for i, patient in enumerate(_PATIENTS) if patient in inside}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_patients_without_a_label_are_neither_counted_nor_drawn(seed):
    """Of 200 patients 20 have a label, on one image of three; one in ten of them is two."""
    labelled = np.array([i % 30 == 4 for i in range(600)])
    with_label = {_PATIENTS[i] for i in np.flatnonzero(labelled)}
    kept = [set(patient_subset(_PATIENTS, f, seed, labelled).tolist()) for f in (0.1, 0.5, 1.0)]
    drawn = [{_PATIENTS[i] for i in rows} for rows in kept]
    assert [len(patients) for patients in drawn] == [2, 10, 200]
    assert drawn[0] < drawn[1] < with_label and kept[0] < kept[1] < kept[2]
    assert [len(rows) for rows in kept] == [6, 30, 600]


def test_another_seed_draws_other_patients():
    first, second = (patient_subset(_PATIENTS, 0.1, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_order_of_rows_does_not_change_who_is_drawn():
    rows = patient_subset(_PATIENTS, 0.1, 0)
    backwards = patient_subset(_PATIENTS[::-1], 0.1, 0)
    assert {_PATIENTS[i] for i in rows} == {_PATIENTS[::-1][i] for i in backwards}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="label_fraction"):
        patient_subset(_PATIENTS, fraction, 0)


def test_boxes_are_those_of_the_records(data_dir):
    boxed = load_boxes("phantom/tiny", str(data_dir), "test")
    source = load_source("phantom/tiny", str(data_dir), "test")
    expected = [
        (image, label.decode(), *corners)
        for image in range(len(source))
        for label, *corners in zip(
            *(source.records[image]["boxes"][part] for part in ("label", "y0", "x0", "y1", "x1"))
        )
    ]
    assert len(expected) > 10 and boxed.flat == 0
    assert [row[:2] for row in expected] == list(zip(boxed.images.tolist(), boxed.labels))
    # Drawn images are square: fractions of the image are those of the square.
    np.testing.assert_allclose(boxed.boxes, [row[2:] for row in expected])
    assert boxed.image(0, 32).shape == (32, 32, 1)


def test_unknown_dataset_is_refused(data_dir):
    with pytest.raises(FileNotFoundError, match="'jsrt' is not built"):
        load_boxes("jsrt", str(data_dir), "train")

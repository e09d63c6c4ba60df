import os
import time

import numpy as np
import pytest

from configs import common
from cxr_jax import weights
from cxr_jax.data.splits import load_split
from cxr_jax.experiments import _maps, _transfer_inputs, transfer
from cxr_jax.transfer._protocol import Splits


def test_a_patient_in_train_and_test_is_refused_and_the_images_named(data_dir):
    splits = Splits(*(load_split("phantom/tiny", str(data_dir), name) for name in Splits._fields))
    _transfer_inputs.check_disjoint(splits)
    patients = list(splits.test.patient_ids)
    patients[3] = splits.train.patient_ids[5]
    leaked = splits.test._replace(patient_ids=tuple(patients))
    with pytest.raises(
        ValueError, match="image 3 of test is of the same patient as image"
    ) as error:
        _transfer_inputs.check_disjoint(splits._replace(test=leaked))
    same = splits.train.patient_ids.index(splits.train.patient_ids[5])
    assert f"image {same} of train" in str(error.value)
    assert splits.train.patient_ids[5] not in str(error.value)


def test_the_images_that_a_label_fraction_leaves_out_are_the_others_of_train(data_dir):
    config = common.transfer()
    config.dataset, config.data.dir, config.label_fraction = "phantom/tiny", str(data_dir), 0.5
    splits, whole = _transfer_inputs.load_splits(config), _transfer_inputs.load_whole_splits(config)
    train = splits.train
    assert len(train.rows) == 18 and len(train.rest) == 18
    assert sorted([*train.rows, *train.rest]) == whole.train.rows.tolist()
    patients = np.array(whole.train.patient_ids)
    assert not set(patients[train.rest]) & set(train.patient_ids)  # rows are places here
    assert not any(len(split.rest) for split in (*whole, splits.validation, splits.test))


def test_all_encoders_read_images_of_one_size_if_told():
    config = common.transfer()
    config.model = common.small_vit()
    config.read_size = 32
    (encoder,) = _transfer_inputs.load_encoders(config)
    assert encoder.image_size == 32 and encoder.model["image_size"] == 64  # of its positions
    for size in (-8, 36):
        config.read_size = size
        with pytest.raises(ValueError, match=f"read_size={size}: random reads .* multiple of 8;"):
            _transfer_inputs.load_encoders(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "config.dataset is empty"),
        ({"dataset": "jsrt", "encoder": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_a_transfer_lacks_is_named(changes, message, tmp_path):
    config = common.transfer()
    config.update(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        transfer.run(config, tmp_path / "run")


def test_features_of_a_sum_of_splits_are_its_parts_and_are_read_once(data_dir, tmp_path):
    encoder = weights.random_encoder({"name": "resnet", "variant": "small"}, 32, 0)

    def read(name: str, rows=slice(None)):
        split = load_split("phantom/tiny", str(data_dir), name)
        split = split._replace(rows=split.rows[rows])
        cached = _transfer_inputs.extract_once(encoder, split, 8, tmp_path)
        alone = _transfer_inputs.extract(encoder, split, 8, name)
        np.testing.assert_allclose(cached, alone, rtol=1e-5, atol=1e-7)  # of batches of other sizes
        return [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npy"))]

    assert len(read("validation")) == 1
    both = read("test+validation", slice(None, None, -3))
    assert len(both) == 2
    assert read("validation+test", slice(5, 40)) == read("test") == both


def test_maps_that_a_killed_run_left_are_removed(data_dir, tmp_path, monkeypatch):
    parts = [np.ones((2, 3, 3, 4), np.float32)]
    monkeypatch.setattr(_maps, "maps", lambda encoder: print)
    monkeypatch.setattr(_transfer_inputs, "feature_key", lambda *_: "key")
    monkeypatch.setattr(_transfer_inputs, "each_batch", lambda *_: parts)
    for name, days in (("maps-a.tmp", 2), ("maps-b.tmp", 0), ("mine.tmp", 2)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - 86400 * days,) * 2)
    encoder = weights.random_encoder({"name": "resnet", "variant": "small"}, 32, 0)
    split = load_split("phantom/tiny", str(data_dir), "test")._replace(rows=np.arange(2))
    assert _maps._stored(encoder, split, 2, "test", tmp_path).shape == (2, 3, 3, 4)
    assert {path.name for path in tmp_path.glob("*.tmp")} == {"maps-b.tmp", "mine.tmp"}

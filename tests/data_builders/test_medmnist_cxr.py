"""MedMNIST's chest sets from their files to what a reader sees."""

import json
import zipfile

import numpy as np
import pytest

from data_builders.nih_chestxray14.nih_chestxray14_dataset_builder import NIH_FINDINGS
from tests.fakes import medmnist_cxr as fake
from tests.fakes.dataset import assert_build_stops, build_beside, build_layout, by_image

FACTS = {
    "pneumoniamnist": (("Pneumonia",), "binary", "pediatric_pneumonia", "AP"),
    "chestmnist": (NIH_FINDINGS, "multilabel", "nih_chestxray14", "FRONTAL"),
}


def config_of(layout):
    return layout.get("name", "pneumoniamnist")


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    config = config_of(fake.LAYOUTS[request.param])
    folder = tmp_path_factory.mktemp("medmnist_cxr")
    return build_layout("medmnist_cxr", fake, request.param, folder, config_name=config)


def test_pixels_labels_and_splits_belong_together(built):
    label_names, _, _, projection = FACTS[config_of(built.layout).split("_")[0]]
    for image_id, image, example in built.paired():
        np.testing.assert_array_equal(example["image"][..., 0], image.picture)
        assert tuple(example["labels"][label] for label in label_names) == image.labels
        assert len(example["labels"]) == len(label_names)
        part = image_id.split("/")[0]
        assert example["split"] == ("validation" if part == "val" else part)
        assert (example["patient_id"], example["projection"]) == (image_id, projection)


def test_the_dataset_says_what_it_was_made_from(built):
    label_names, task, parent, _ = FACTS[config_of(built.layout).split("_")[0]]
    metadata = json.loads((built.folder / "metadata.json").read_text())
    assert (metadata["task"], metadata["parent"]) == (task, parent)
    assert metadata["label_names"] == list(label_names)
    assert metadata["skipped"] == 0


def test_what_was_unpacked_is_gone(built):
    left = [path for path in built.folder.rglob("*") if path.suffix == ".npy" or path.is_dir()]
    assert not left


def test_worker_processes_read_the_images(raw):
    images = fake.write(raw)
    _, splits = build_beside("medmnist_cxr", raw, num_workers=1)
    for image_id, example in by_image(splits).items():
        np.testing.assert_array_equal(example["image"][..., 0], images[image_id].picture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"val_labels": np.zeros((3, 2), np.uint8)},
            r"val_labels is uint8 of the shape \[3, 2\].*\[n, 1\]",
        ),
        ({"train_images": np.zeros((6, 64, 64), np.uint8)}, r"shape \[6, 64, 64\].*\[n, 28, 28\]"),
        ({"train_images": np.zeros((6, 28, 28, 3), np.uint8)}, r"shape \[6, 28, 28, 3\]"),
        ({"train_images": np.zeros((6, 28, 28), np.float32)}, "train_images is float32 of the"),
        (
            {"train_images": np.zeros((28, 28, 6), np.uint8).T},
            r"train_images is uint8 of the shape",
        ),
        ({"test_labels": np.zeros((4, 1), np.float64)}, "test_labels is float64"),
        ({"test_labels": np.zeros((4, 1), object)}, "test_labels is an array of Python objects"),
        ({"test_labels": np.zeros((5, 1), np.uint8)}, "has 4 images in test_images and 5 rows"),
        (
            {"test_labels": np.full((4, 1), 3, np.uint8)},
            "test_labels holds other values than 0 and 1",
        ),
        ({"val_images": np.zeros((525, 28, 28), np.uint8)}, r"shape \[525, 28, 28\].* n up to 524"),
        ({"val_images": np.zeros((5000, 28, 28), np.uint8)}, "unpacks to 3,920,128 bytes, more"),
        ({"test_images": None}, r"pneumoniamnist.npz has no test_images; it holds train_images"),
    ],
)
def test_arrays_that_are_not_medmnists_stop_the_build(raw, change, message):
    made = {key: value for key, value in (fake.arrays() | change).items() if value is not None}
    np.savez_compressed(raw / "pneumoniamnist.npz", **made)
    assert_build_stops("medmnist_cxr", raw, message)


def test_a_header_that_promises_more_than_the_file_holds_stops_the_build(raw):
    fake.write(raw)
    path = raw / "pneumoniamnist.npz"
    members = read_zip(path)
    claim = members["train_images.npy"]
    assert b"(6, 28, 28)" in claim
    members["train_images.npy"] = claim.replace(b"(6, 28, 28), }   ", b"(4000, 28, 28), }")
    write_zip(path, members)
    message = r"train_images is uint8 .* in 4,832 of 3,136,128 bytes"
    assert_build_stops("medmnist_cxr", raw, message)


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_download_that_broke_off_stops_the_build(raw, keep):
    fake.write(raw)
    path = raw / "pneumoniamnist.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert_build_stops("medmnist_cxr", raw, r"pneumoniamnist.npz is broken or cut off")


def test_damaged_bytes_stop_the_build(raw):
    fake.write(raw)
    path = raw / "pneumoniamnist.npz"
    content = bytearray(path.read_bytes())
    content[1000:1010] = bytes(10)
    path.write_bytes(content)
    assert_build_stops("medmnist_cxr", raw, r"pneumoniamnist.npz is broken or cut off")


def test_an_encrypted_file_stops_the_build(raw):
    fake.write(raw)
    path = raw / "pneumoniamnist.npz"
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(signature, place + 1)
    path.write_bytes(content)
    message = r"pneumoniamnist.npz is broken or cut off \(.*is encrypted"
    assert_build_stops("medmnist_cxr", raw, message)


def test_a_member_before_the_files_start_stops_the_build(raw):
    fake.write(raw)
    path = raw / "pneumoniamnist.npz"
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\5\6") + 16  # where the archive's list is said to begin
    begin = int.from_bytes(content[place : place + 4], "little") + 7
    content[place : place + 4] = begin.to_bytes(4, "little")
    path.write_bytes(content)
    assert_build_stops("medmnist_cxr", raw, r"pneumoniamnist.npz is broken or cut off \(")


@pytest.mark.parametrize("header", [b"{'descr': (", b"{[]: 1}", b"-" * 9000 + b"1", b"{}}"])
def test_a_header_that_is_no_python_stops_the_build(raw, header):
    fake.write(raw)
    path = raw / "pneumoniamnist.npz"
    members = read_zip(path)
    start = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little")
    write_zip(path, members | {"train_images.npy": start + header})
    assert_build_stops("medmnist_cxr", raw, "npz: train_images is no NumPy array")


def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_another_configs_file_is_not_taken(raw):
    fake.write(raw, name="chestmnist")
    message = r"holds no chestmnist_64.npz. Put the file"
    assert_build_stops("medmnist_cxr", raw, message, config_name="chestmnist_64")

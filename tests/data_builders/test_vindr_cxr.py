"""VinDr-CXR from its raw layouts to what a reader sees."""

import collections
import csv
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cxr_jax.data.dataset_info import read_metadata
from data_builders.base import splits as split_rule
from data_builders.vindr_cxr.vindr_cxr_dataset_builder import KAGGLE_COUNTS
from tests.fakes import vindr_cxr as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    boxes_of,
    build_beside,
    build_layout,
    edit,
    rounded,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("vindr_cxr", fake, request.param, tmp_path_factory.mktemp("vindr_cxr"))


def test_pixels_boxes_and_every_readers_labels_belong_together(built):
    for image_id, image, example in built.paired():
        assert [reader.decode() for reader in example["readers"]] == image.readers
        assert example["labels"].keys() == image.labels.keys()
        for name, values in image.labels.items():
            np.testing.assert_equal(list(example["labels"][name]), np.float32(values))
        assert sorted(boxes_of(example)) == sorted(rounded(image.boxes))
        assert (example["patient_id"], example["projection"]) == (image_id, "PA")
        assert example["sex"] == image.sex
        np.testing.assert_equal(example["age"], np.float32(image.age))
    examples = built.examples.values()
    assert any(len(set(example["labels"]["No finding"])) == 2 for example in examples)  # disputed
    assert any(len(boxes_of(example)) > 2 for example in examples)


def test_each_copy_is_compared_with_its_own_counts_and_says_that_nobody_is_known(built):
    metadata = read_metadata(built.folder)
    owner = {name: pair[0] for name, pair in metadata["owner_counts"].items()}
    assert owner["images"] == (15_000 if built.layout.get("kaggle") else 18_000)
    assert ("Cardiomegaly" in owner) == bool(built.layout.get("kaggle"))
    total = sum(map(len, built.splits.values()))
    assert f"of {total} of the {total} images the person is not known" in metadata["patient_note"]


def test_kaggles_counts_are_those_of_its_table():
    """Counted anew in the copy of Kaggle's train.csv that TorchXRayVision ships."""
    spec = importlib.util.find_spec("torchxrayvision")  # without PyTorch
    if spec is None:
        pytest.skip("torchxrayvision is not installed")
    positive = collections.Counter()
    table = Path(spec.origin).parent / "data/vinbigdata-train.csv.gz"
    with gzip.open(table, "rt") as stream:
        rows = csv.DictReader(stream)
        said = {(row["image_id"], row["class_name"], row["rad_id"]) for row in rows}
    for (_, name), readers in collections.Counter(key[:2] for key in said).items():
        positive[name] += readers >= 2
    assert {"images": len({key[0] for key in said}), **positive} == KAGGLE_COUNTS


def test_the_owners_test_is_kept_and_kaggle_is_split_by_image(built):
    assert built.splits.keys() == {"train", "validation", "test"}
    for image_id, example in built.examples.items():
        if built.layout.get("kaggle"):
            assert example["split"] == split_rule.by_patient(image_id)
        else:
            assert (example["split"] == "test") == (built.images[image_id].part == "test")


def test_what_does_not_fit_together_is_listed(built):
    expected = {fake.NO_PIXELS: ""}
    # Kaggle's test images have no labels, so an image too many is one of them.
    if not built.layout.get("kaggle"):
        expected[fake.FILE_WITHOUT_ROW] = ""
    skipped = skipped_of(built.folder)
    table = "train.csv" if built.layout.get("kaggle") else "image_labels_train.csv"
    row = row_of(built.raw, table, fake.ROW_WITHOUT_FILE)
    assert skipped.pop(row) == "no such file"
    assert_reasons({name.split(".")[0]: reason for name, reason in skipped.items()}, expected)


TRAIN, TEST = "annotations/image_labels_train.csv", "annotations/image_labels_test.csv"
BOXES = "annotations/annotations_train.csv"
FIRST, SECOND = fake.readers_of(0)[:2]


@pytest.mark.parametrize(
    ("layout", "file", "old", "new", "message"),
    [
        ("physionet", TRAIN, "Nodule/Mass", "Nodule", "no column 'Nodule/Mass'"),
        ("physionet", TRAIN, "rad_id", "rad_ID", "no column 'rad_id' .* Did you mean 'rad_ID'"),
        ("physionet", TRAIN, ",0,1\n", ",,1\n", r"'Other diseases' is neither 1 nor 0"),
        ("physionet", TRAIN, f"{FIRST},", f"{SECOND},", r"3 readings \(.*row \d+.*expected 3"),
        ("physionet", TRAIN, fake.image_id(0), fake.image_id(1), r" readings .*expected 3"),
        ("physionet", TEST, fake.image_id(29), fake.image_id(28), r"2 readings .*expected 1"),
        ("physionet", TEST, fake.image_id(28), fake.image_id(0), r"is listed twice: .*test.csv"),
        ("physionet", BOXES, "No finding", "Nothing", r"train.csv, row \d+: class_name is none of"),
        ("physionet", BOXES, ",,,,", ",1,2,3,4", r"train.csv, row \d+: 'No finding' has a box"),
        ("physionet", BOXES, ",9.0,", ",,", r"row \d+: the box's corners are no numbers"),
        ("physionet", BOXES, ",9.0,", ",nan,", r"row \d+: .* are not a box's x0"),
        ("physionet", BOXES, "15.0,9.0,45.0", "45.0,9.0,15.0", r"row \d+: .* are not a box's x0"),
        ("kaggle", "train.csv", "No finding", "COPD", r"train.csv, row 2: class_name is none of"),
        ("kaggle", "train.csv", "R1,", "R6,", r" readings .*expected 3"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(raw, layout, file, old, new, message):
    fake.write(raw, **fake.LAYOUTS[layout])
    edit(raw / file, old, new)
    assert_build_stops("vindr_cxr", raw, message)


def test_boxes_that_are_not_their_readers_stop_the_build(raw):
    fake.write(raw)
    path = raw / BOXES
    header, *lines = path.read_text().splitlines()
    strange = [line.replace(fake.image_id(7), "stranger") for line in lines]
    path.write_text("\n".join([header, *strange]))
    folder, _ = build_beside("vindr_cxr", raw)
    with open(folder / "skipped.csv") as stream:
        listed = [row["file"] for row in csv.DictReader(stream) if "a box on" in row["reason"]]
    boxed = ["stranger" in line and ",,,," not in line for line in strange]
    assert listed == [f"{path.name}, row {n}" for n, is_one in enumerate(boxed, 2) if is_one] != []
    heads = [line.split(",", 2) for line in lines]
    shifted = [f"{i},{r},{rest}" for (i, _, rest), (_, r, _) in zip(heads, heads[3:] + heads[:3])]
    path.write_text("\n".join([header, *shifted]))
    message = r"boxes of annotations_train.csv are of findings that .* first is anno.*csv, row \d"
    assert_build_stops("vindr_cxr", raw, message, overwrite=True)


def test_a_reader_who_found_something_and_nothing_stops_the_build(raw):
    fake.write(raw, kaggle=True)
    path = raw / "train.csv"
    lines = path.read_text().splitlines()
    nothing = next(line for line in lines if "No finding" in line)
    found = nothing.replace("No finding,14", "ILD,5").replace(",,,,", ",1,2,3,4")
    path.write_text("\n".join([*lines, found]))
    message = r"train.csv, row \d+: the reader found \['ILD', 'No f"
    assert_build_stops("vindr_cxr", raw, message)

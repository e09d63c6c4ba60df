"""SIIM-ACR Pneumothorax from its raw layouts to what a reader sees."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_jax.io import dicom
from data_builders.base import splits as split_rule
from data_builders.siim_acr_pneumothorax.siim_acr_pneumothorax_dataset_builder import (
    run_length_box,
    run_length_masks,
)
from tests.fakes import siim_acr_pneumothorax as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    boxes_of,
    build_layout,
    edit,
    rounded,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout(
        "siim_acr_pneumothorax",
        fake,
        request.param,
        tmp_path_factory.mktemp("siim_acr_pneumothorax"),
    )


def test_pixels_label_boxes_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        assert example["labels"] == {"Pneumothorax": float(image.positive)}
        assert boxes_of(example) == rounded(("Pneumothorax", *box) for box in image.boxes)
        hashed = dicom.hashed(image.patient) if image.patient else image_id
        assert (example["patient_id"], example["projection"]) == (hashed, image.projection)
        assert example["sex"] == image.sex
        np.testing.assert_equal(example["age"], np.float32(image.age))


def test_masks_are_those_of_all_rows_and_empty_without_a_pneumothorax(built):
    for _, image, example in built.paired():
        held = example["masks"]
        if image.positive and not image.boxes:  # its mask is broken or not there
            assert len(held["mask"]) == 0
            continue
        assert [name.decode() for name in held["label"]] == ["Pneumothorax"]
        mask = np.asarray(Image.open(io.BytesIO(held["mask"][0])))
        expected = np.zeros((64, 64), np.uint8)
        for y0, x0, y1, x1 in image.boxes:
            expected[
                tuple(slice(round(64 * a), round(64 * b)) for a, b in ((y0, y1), (x0, x1)))
            ] = 255
        # What is thinner than half a pixel of the stored image is gone: a box of one pixel in 1024.
        assert mask.shape == example["image"].shape[:2]
        assert (mask != expected).mean() < 0.02 and set(np.unique(mask)) <= {0, 255}


def test_run_lengths_by_hand():
    """Three pixels down from the second of column 0, then two rows on: the first of column 1."""
    mask = run_length_masks(("1 3 1020 1",))["Pneumothorax"]
    assert mask[1:4, 0].all() and mask[0, 1] and mask.sum() == 4
    both = run_length_masks(("1 3 1020 1", "2048 2"))["Pneumothorax"]
    assert both[:2, 2].all() and both.sum() == 6
    assert run_length_masks(())["Pneumothorax"] is None


def test_the_png_copy_keeps_its_owners_test_and_dicom_is_split_by_patient(built):
    assert built.splits.keys() == {"train", "validation", "test"}
    for image_id, example in built.examples.items():
        if built.layout.get("png"):
            assert (example["split"] == "test") == (built.images[image_id].part == "test")
        else:
            assert example["split"] == split_rule.by_patient(example["patient_id"])


def test_what_does_not_fit_together_is_listed(built):
    skipped = skipped_of(built.folder)
    if not built.layout.get("png"):
        expected = {
            fake.uid(fake.NO_PIXELS): "",
            fake.uid(fake.FILE_WITHOUT_ROW): "^no row in ",
        }
        row = row_of(built.raw, "*train*.csv", fake.uid(fake.ROW_WITHOUT_FILE))
        assert skipped.pop(row) == "no such file"
        assert_reasons({name.rsplit(".", 1)[0]: why for name, why in skipped.items()}, expected)
    elif built.layout.get("tables", True):
        assert skipped == {
            "5_train_1_.png": "the file is empty",
            "3_train_1_.png": "a mask that cannot be read; its image has no boxes",
            row_of(built.raw, "stage_1_train", "11_train_1_.png"): "no such file",
            "90_test_1_.png": "no row in the stage-1 tables",
        }
    else:
        assert skipped.keys() == {"3_train_1_.png", "5_train_1_.png"}


def test_run_lengths_of_any_shape_give_the_box_around_the_mask():
    """Against a mask that is decoded pixel by pixel."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        numbers = rng.integers(1, 3000, size=2 * rng.integers(1, 40)).tolist()
        mask = np.concatenate([np.full(n, i % 2) for i, n in enumerate(numbers)])
        mask = np.pad(mask, (0, 1024 * 1024 - len(mask))).reshape(1024, 1024).T
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = run_length_box(" ".join(map(str, numbers)), "row 2")
        assert (box.y0 * 1024, box.y1 * 1024) == (rows[0], rows[-1] + 1)
        assert (box.x0 * 1024, box.x1 * 1024) == (columns[0], columns[-1] + 1)


@pytest.mark.parametrize(
    "runs", ["", "1 2 3", "1 -2", "1 x", "1_0 2", "0 1048577", "5 0", "٣ ٤", "1 " + "9" * 5000]
)
def test_bad_run_lengths_stop_the_build(raw, runs):
    (raw / "train-rle.csv").write_text(f"ImageId, EncodedPixels\na, -1\nb,{runs}\n")
    assert_build_stops("siim_acr_pneumothorax", raw, r"train-rle.csv, row 3: EncodedPixels")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ImageId, EncodedPixels\na, -1\na, 1 2\n", "one of .*row 2 and .*row 3 and none in"),
        ("ImageId, EncodedPixel\na, -1\n", "no column 'EncodedPixels' .* Is it column 2,"),
        ("ImageId, EncodedPixels\na,1 2," + "9" * 200_000, "train-rle.csv, line 2: field larger"),
    ],
)
def test_a_table_that_cannot_be_right_stops_the_build(raw, table, message):
    (raw / "train-rle.csv").write_text(table)
    assert_build_stops("siim_acr_pneumothorax", raw, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0_train_1_.png,", "0_train_0_.png,", "stage_1_train_images.csv, row 2 contradicts"),
        ("0_train_1_.png,", "0_test_1_.png,", "stage_1_train_images.csv, row 2 contradicts"),
        ("0_train_1_.png,", "0.png,", "row 2: the image is not named like"),
        ("0_train_1_.png,", "2_train_1_.png,", "listed twice: .*row 2 and .*row 4"),
        ("new_filename", "filename", "no column 'new_filename' .* Is it column "),
    ],
)
def test_errors_in_the_tables_of_the_png_copy_stop_the_build(raw, old, new, message):
    fake.write(raw, png=True)
    edit(raw / "siim-acr-pneumothorax" / "stage_1_train_images.csv", old, new)
    assert_build_stops("siim_acr_pneumothorax", raw, message)


def test_an_empty_mask_of_a_positive_image_stops_the_build(raw):
    fake.write(raw, png=True)
    masks = raw / "siim-acr-pneumothorax" / "png_masks"
    (masks / "0_train_1_.png").write_bytes((masks / "1_train_0_.png").read_bytes())
    message = r"0_train_1_.png is empty, but .*row 2 says"
    assert_build_stops("siim_acr_pneumothorax", raw, message)

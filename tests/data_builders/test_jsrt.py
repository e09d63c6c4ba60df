"""JSRT from its raw layouts to what a reader sees."""

import io

import numpy as np
import pytest
from PIL import Image

from cxr_jax.io.limits import ImageError
from data_builders.base import splits as split_rule
from data_builders.jsrt.jsrt_dataset_builder import ImgImage
from tests.fakes import jsrt as fake
from tests.fakes.dataset import (
    assert_build_stops,
    assert_reasons,
    build_layout,
    edit,
    row_of,
    skipped_of,
)


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("jsrt", fake, request.param, tmp_path_factory.mktemp("jsrt"))


def test_pixels_labels_and_ids_belong_together(built):
    for image_id, image, example in built.paired():
        labels = [example["labels"]["Nodule"], example["labels"]["Malignant"]]
        np.testing.assert_array_equal(labels, [image.nodule, image.malignant])
        assert (example["patient_id"], example["projection"]) == (image_id, "PA")
        assert example["sex"] == image.sex
        np.testing.assert_array_equal(example["age"], image.age)
        assert example["split"] == split_rule.by_patient(image_id)
    assert built.splits.keys() == {"train", "validation", "test"}


def test_the_box_is_as_wide_as_the_nodule_around_its_centre(built):
    for image_id, example in built.examples.items():
        boxes, box = example["boxes"], built.images[image_id].box
        corners = np.transpose([boxes[side] for side in ("y0", "x0", "y1", "x1")])
        np.testing.assert_allclose(corners, [box] if box else np.zeros((0, 4)), atol=1e-6)
        assert [label.decode() for label in boxes["label"]] == (["Nodule"] if box else [])


def test_masks_join_both_lungs_on_a_finer_grid(built):
    for image_id, example in built.examples.items():
        names = [name.decode() for name in example["masks"]["label"]]
        assert names == ([] if image_id == fake.WITHOUT_MASK else ["Lungs", "Heart"])
        for name, mask in zip(names, example["masks"]["mask"]):
            expected = np.zeros((64, 64), np.uint8)
            top = 2 * (4 + int(image_id[-3:]) % 5)
            for start, end in ((4, 24), (36, 60)) if name == "Lungs" else ((30, 32),):
                expected[top:48, start:end] = 255
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask))), expected)


def test_what_gives_no_example_is_listed(built):
    skipped = skipped_of(built.folder)
    table = "CLNDAT_EN.txt" if "JPCLN" in fake.WITHOUT_FILE else "CNNDAT_EN.TXT"
    assert skipped.pop(row_of(built.raw, table, fake.WITHOUT_FILE)) == "no such file"
    reasons = {name.upper().removesuffix(".IMG"): reason for name, reason in skipped.items()}
    expected = {
        fake.CUT_OFF: "8,092 bytes, expected 8,388,608",
        fake.SWAPPED: "beyond 12 bits",
        fake.WITHOUT_ROW: "no row in CLNDAT_EN.txt or CNNDAT_EN.TXT",
    }
    assert_reasons(reasons, expected)


def test_the_real_size_is_read_and_others_are_not(tmp_path):
    path = tmp_path / "JPCLN001.IMG"
    stored = np.full((2048, 2048), 4000, ">u2")
    stored[100, 200] = 95
    path.write_bytes(stored.tobytes())
    picture = ImgImage(path)()
    assert picture.shape == (2048, 2048, 1)
    assert picture[100, 200, 0] == 255
    assert picture.sum() == 255
    path.write_bytes(bytes(2 * 60 * 60))  # a square, but no half of 2048
    with pytest.raises(ImageError, match="7,200 bytes"):
        ImgImage(path)()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "CLNDAT_EN.txt",
            "malignant",
            "malign",
            r"CLNDAT_EN.txt, row 3: its eighth field is neither",
        ),
        ("CLNDAT_EN.txt", "\tbenign", "", r"row 1: its eighth field is neither malignant nor"),
        ("CLNDAT_EN.txt", "JPCLN002.IMG", "JPCNN002.IMG", r"row 2: its first field is not a file"),
        ("CLNDAT_EN.txt", "JPCLN002.IMG", "JPCLN001.IMG", r"is listed twice: .*row 1 and .*row 2"),
        ("CLNDAT_EN.txt", "JPCLN002.IMG", "JPCLN00².IMG", r"row 2: its first field is not a file"),
        ("CLNDAT_EN.txt", "1001", "2049", r"row 1: a nodule of its size, x and y is not on"),
        ("CLNDAT_EN.txt", "1001", "left", r"row 1: size, x, y are no numbers"),
        ("CLNDAT_EN.txt", "female", "woman", r"row 1: sex is none of male"),
        ("CNNDAT_EN.TXT", "41", "old", r"CNNDAT_EN.TXT, row 1: age is not a number"),
        ("CNNDAT_EN.TXT", "non-nodule", "nodule", r"CNNDAT_EN.TXT, row 1 is not .* 'non-nodule'"),
    ],
)
def test_errors_in_the_owners_tables_stop_the_build(raw, file, old, new, message):
    fake.write(raw)
    edit(raw / "Clinical_Information" / file, old, new)
    assert_build_stops("jsrt", raw, message)


def test_a_missing_table_is_named(raw):
    fake.write(raw)
    (raw / "Clinical_Information/CNNDAT_EN.TXT").unlink()
    assert_build_stops("jsrt", raw, r"holds no CNNDAT_EN.TXT. Register at")

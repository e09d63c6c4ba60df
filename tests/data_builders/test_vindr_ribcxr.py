"""VinDr-RibCXR from its raw layouts to what a reader sees."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from data_builders.base import splits as split_rule
from data_builders.vindr_ribcxr.vindr_ribcxr_dataset_builder import fill
from tests.fakes import vindr_ribcxr as fake
from tests.fakes.dataset import assert_build_stops, assert_reasons, build_layout, skipped_of

WRONG = {fake.image_id("train", k) for k in (fake.TWO_POINTS, fake.NO_POINTS, fake.OFF)}
TABLE = "Vindr_RibCXR_train_mask.json"


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    return build_layout("vindr_ribcxr", fake, request.param, tmp_path_factory.mktemp("ribs"))


def test_ribs_are_on_their_images_under_the_owners_names(built):
    for image_id, image, example in built.paired():
        names = [name.decode() for name in example["masks"]["label"]]
        assert names == ([] if image_id in WRONG else fake.RIBS)
        for name, mask in zip(names, example["masks"]["mask"]):
            expected = np.zeros((fake.HEIGHT, fake.WIDTH), np.uint8)
            if (bar := image.ribs[name]) is not None:
                y0, x0, y1, x1 = bar
                expected[y0 : y1 + 1, x0 : x1 + 1] = 255
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask))), expected)


def test_the_owners_validation_is_test(built):
    for image_id, image, example in built.paired():
        carved = split_rule.carve_validation(image_id, 1 / 8)
        assert example["split"] == (carved if image.part == "train" else "test")
        assert (example["patient_id"], example["projection"]) == (image_id, "PA")
    assert built.splits.keys() == {"train", "validation", "test"}


def test_what_cannot_be_used_is_listed_by_table_index_and_rib(built):
    two, none, off = (fake.image_id("train", k) for k in (3, 4, 5))
    expected = {
        f"{two}.png": f"^kept without masks: {TABLE}, index 3, R2: no outline of three points",
        f"{none}.png": f"^kept without masks: {TABLE}, index 4, L3: no outline of three points",
        f"{off}.png": f"^kept without masks: {TABLE}, index 5, R9: an outline beyond the image",
        f"{TABLE}, index 6": "no such file",
        f"{fake.WITHOUT_ROW}.png": f"in neither {TABLE} nor",
    }
    assert_reasons(skipped_of(built.folder), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("L7"), f"{TABLE} has no object 'L7', by index"),
        (lambda held: held["R4"].pop("2"), f"{TABLE}, index 2: it is in 'img', not in 'R4'"),
        (lambda held: held["R4"].update({"77": []}), "index 77: it is in 'R4', not in 'img'"),
        (lambda held: held["img"].update({"2": 5}), f"{TABLE}, index 2: its img is no name of"),
        (lambda held: held["img"].update({"2": held["img"]["1"]}), "index 1 and .* index 2"),
    ],
)
def test_tables_that_do_not_fit_stop_the_build(raw, change, message):
    fake.write(raw)
    path = raw / "data/train" / TABLE
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    assert_build_stops("vindr_ribcxr", raw, message)


def test_damaged_and_missing_tables_are_named(raw):
    fake.write(raw)
    path = raw / "data/train" / TABLE
    path.write_text(path.read_text()[:-9])
    assert_build_stops("vindr_ribcxr", raw, f"{TABLE} is damaged: it is not JSON")
    path.unlink()
    assert_build_stops("vindr_ribcxr", raw, f"holds no {TABLE}. Sign the agreement")


def test_a_slanted_outline_is_filled_by_the_even_odd_rule():
    corners = np.array([[3, 4], [50, 12], [30, 40], [44, 60], [8, 55]])  # x, y; not convex
    found = fill([{"x": x, "y": y} for x, y in corners.tolist()], 72, 60, "table, index 0, R1")
    y, x = np.mgrid[:72, :60] + 0.01  # beside the corners' own rows
    crossings, near = np.zeros((72, 60), int), np.zeros((72, 60), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        crossings += ((y0 > y) != (y1 > y)) & (x < at)
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)), 0, None)
        share = np.minimum(along / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 1)
        near |= np.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0)) < 1
    np.testing.assert_array_equal(found[~near], (crossings % 2 == 1)[~near])

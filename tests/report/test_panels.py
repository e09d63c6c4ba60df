"""Pictures of images: readable under their heat, true in words, small enough for a page."""

import json

import numpy as np
import pytest
from PIL import Image

from cxr_jax.report import blocks, panels
from cxr_jax.report.panels import Case, Neighbour


def _case(number=1, heat=None, boxes=(), label="Mass", image=None, target=1.0):
    if image is None:
        image = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    if heat is None:
        heat = np.eye(4)
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Case(number, image, label, target, 0.98, "the highest score of all", heat, boxes)


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def _like(pixels, colour):
    """How many pixels have about this colour, "#rrggbb"."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=-1) < 20).sum())


def test_a_image_without_heat_is_itself_and_under_heat_keeps_light_and_dark():
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    clear = panels.overlay(image, np.zeros((4, 4)), 1.0)
    np.testing.assert_array_equal(clear, np.repeat(image[..., None], 3, axis=2))
    np.testing.assert_array_equal(panels.overlay(image, np.zeros((4, 4)), 0.0), clear)
    full = panels.overlay(image, np.ones((4, 4)), 1.0).astype(int)
    assert (np.diff(full[32].sum(axis=-1)) > 0).all()
    assert (full[..., 0] > full[..., 2]).all()  # orange everywhere, on black and on white
    half = panels.overlay(image, np.array([[1.0, 0.0]]), 1.0).astype(int)
    np.testing.assert_array_equal(half[:, -8:], clear[:, -8:])
    assert (half[:, :8, 0] > half[:, :8, 2]).all()


def test_images_of_one_label_share_the_scale(tmp_path):
    strong, weak = np.full((4, 4), 8.0), np.full((4, 4), 0.8)
    grey = np.full((64, 64), 128, np.uint8)
    path = tmp_path / "a.png"
    panels.saliency(path, [_case(1, strong, image=grey), _case(2, weak, image=grey)])
    together = _pixels(path)
    panels.saliency(
        path, [_case(1, strong, image=grey), _case(2, weak, image=grey, label="Oedema")]
    )
    apart = _pixels(path)
    first, second = (slice(60, 180), slice(320, 440)), (slice(320, 430), slice(320, 440))
    np.testing.assert_array_equal(together[first], apart[first])
    tinted = [np.ptp(picture[second], axis=-1).mean() for picture in (together, apart)]
    assert tinted[1] > 3 * tinted[0] > 0


def test_boxes_are_drawn_around_their_place(tmp_path):
    black, none = np.zeros((64, 64), np.uint8), np.zeros((2, 2))
    for name, boxes in (("with", [(0.25, 0.5, 0.75, 1.0)]), ("without", ())):
        panels.saliency(tmp_path / f"{name}.png", [_case(1, none, boxes, image=black)])
    held, empty = (_pixels(tmp_path / f"{name}.png") for name in ("with", "without"))
    (left, right), (top, bottom) = (
        np.flatnonzero((held != empty)[:, :240].any(axis=(1 - axis, 2)))[[0, -1]] for axis in (1, 0)
    )
    # 240 px a side, below a margin of 13.
    np.testing.assert_allclose([top - 13, bottom - 13, left, right], [60, 180, 120, 239], atol=4)


def test_neighbours_are_framed_by_their_target(tmp_path):
    path = tmp_path / "n.png"
    grey = np.full((64, 64), 128, np.uint8)
    blue, vermillion = "#0072B2", "#D55E00"
    for target, few, many in ((1.0, blue, vermillion), (0.0, vermillion, blue)):
        found = [Neighbour(grey, target, 0.97), Neighbour(grey, target, 0.9)]
        panels.neighbours(path, [_case(target=target, image=grey)], [found])
        pixels = _pixels(path)
        assert _like(pixels, few) == 0 and _like(pixels, many) > 3 * 4 * 150 * 4
    unknown = [Neighbour(grey, float("nan"), 0.5)]
    panels.neighbours(path, [_case(image=grey, target=float("nan"))], [unknown])
    assert _like(_pixels(path), blue) == _like(_pixels(path), vermillion) == 0


def test_images_of_noise_stay_below_a_megabyte(tmp_path):
    original = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    cases = [_case(number, image=original) for number in range(1, 10)]
    panels.saliency(tmp_path / "s.png", cases)
    panels.neighbours(
        tmp_path / "n.png",
        cases,
        [[Neighbour(original, 1.0, 0.9) for _ in range(5)] for _ in cases],
    )
    for name in ("s.png", "n.png"):
        assert (tmp_path / name).stat().st_size <= 1_000_000
        with Image.open(tmp_path / name) as image:
            assert image.width > 400


def test_the_map_has_a_panel_for_each_of_six_labels(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(80, 2)).astype(np.float32)
    targets = rng.integers(0, 2, (80, 8)).astype(np.float32)
    targets[:9] = np.nan
    shapes = []
    for count in (1, 6, 8):
        names = [f"label {k}" for k in range(count)]
        path = tmp_path / f"{count}.png"
        panels.embedding(path, points, targets[:, :count], names, [{1: 3, 2: 40}])
        shapes.append(_pixels(path).shape)
    assert shapes[0] != shapes[1] == shapes[2]


@pytest.mark.parametrize(
    ("lower", "words"),
    [
        (1.0, "scored higher than all other test images"),
        (0.999, "scored higher than 99 % of the test images"),
        (0.98, "scored higher than 98 % of the test images"),
        (0.004, "fewer than 1 % of the test images scored lower"),
        (0.0, "no test image scored lower"),
    ],
)
def test_ranks_in_words(lower, words):
    assert panels.rank_in_words(lower) == words


def test_a_page_says_that_it_shows_images_and_only_then(tmp_path):
    assert panels.blocks(tmp_path) == []
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "neighbours.png").write_bytes(b"")
    heading, sentence, meaning, picture = panels.blocks(tmp_path)
    assert heading.text == "Images" and "This page shows images of the test set" in sentence.text
    assert meaning.text.startswith("**What the encoder finds alike.**")
    markdown = blocks.to_markdown("t", [picture], tmp_path)
    assert "![What the encoder finds alike](pictures/neighbours.png)" in markdown


@pytest.mark.parametrize(
    ("images", "said", "unsaid"),
    [("", "chosen label by label", "named"), ("a,b", "named", "chosen label by label")],
)
def test_a_page_says_which_way_its_images_came_there(tmp_path, images, said, unsaid):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "neighbours.png").write_bytes(b"")
    (tmp_path / "config.json").write_text(json.dumps({"pictures": {"images": images}}))
    sentence = panels.blocks(tmp_path)[1].text
    assert said in sentence and unsaid not in sentence and "films.csv" not in sentence
    (tmp_path / "pictures" / "films.csv").write_text("number,image_id\n1,secret\n")
    sentences = blocks.to_markdown("t", panels.blocks(tmp_path), tmp_path)
    assert "pictures/films.csv says which images these are." in sentences
    assert "secret" not in sentences

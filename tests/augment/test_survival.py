"""Kept shares and sizes against crops of pixel masks drawn with NumPy and SciPy alone."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from cxr_jax.augment import survival
from tests.fakes.plain_view import PLAIN

KEY = jax.random.PRNGKey(0)


def test_views_that_only_scale_keep_everything():
    boxes = np.array([[0.1, 0.2, 0.3, 0.6], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.52, 0.51]])
    kept = survival.measure(KEY, boxes, [PLAIN, PLAIN | dict(size=64, flip=0.5)], 96, 20)
    np.testing.assert_allclose(kept.kept, 1, atol=1e-4)
    before = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    np.testing.assert_allclose(kept.size_before, before[:, None] * [32, 64], rtol=1e-6)
    after = np.broadcast_to(kept.size_before[:, None], kept.size.shape)
    np.testing.assert_allclose(kept.size, after, rtol=1e-4)


def test_what_the_square_cuts_off_is_lost_and_a_rotation_does_not_bring_it_back():
    boxes = np.array([[0.25, -0.3, 0.75, 0.1], [0.25, 1.0, 0.75, 1.5]])
    kept = survival.measure(KEY, boxes, [PLAIN, PLAIN | dict(rotate=20.0)], 96, 50)
    np.testing.assert_allclose(kept.kept[0, :, 0], 0.25, atol=1e-4)
    assert kept.kept[0, :, 1].max() <= 0.25 + 1e-4
    np.testing.assert_allclose(kept.kept[1], 0, atol=1e-6)


def brute_force(box, view, side, count, rng):
    """Kept shares and sizes in random views of an image that is white in its box."""
    image = np.zeros((side, side))
    y0, x0, y1, x1 = np.round(np.array(box) * side).astype(int)
    image[y0:y1, x0:x1] = 1
    whole, kept, sizes = image.sum(), [], []
    for _ in range(count):
        degrees = rng.uniform(-view["rotate"], view["rotate"])
        turned = image
        if view["rotate"]:
            turned = ndimage.rotate(image, degrees, reshape=False, order=1, mode="nearest")
        while True:  # the published way: draw again until the crop fits
            area = rng.uniform(*view["crop_scale"]) * side**2
            aspect = np.exp(rng.uniform(*np.log(view["crop_ratio"])))
            height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
            if max(height, width) <= side:
                break
        top, left = rng.uniform(0, side - height), rng.uniform(0, side - width)
        pixels = np.arange(side)
        rows = np.clip(np.minimum(pixels + 1, top + height) - np.maximum(pixels, top), 0, 1)
        columns = np.clip(np.minimum(pixels + 1, left + width) - np.maximum(pixels, left), 0, 1)
        seen = rows @ turned @ columns
        kept.append(seen / whole)
        sizes.append(np.sqrt(seen) * view["size"] / np.sqrt(height * width))
    return np.array(kept), np.array(sizes)


# Areas that fit at every aspect: for larger ones the published draws are not uniform in area.
SMALL_CROPS = PLAIN | dict(crop_scale=(0.1, 0.7), crop_ratio=(3 / 4, 4 / 3), flip=0.5)


@pytest.mark.parametrize("rotate", [0.0, 30.0])
@pytest.mark.parametrize("box", [(0.25, 0.25, 0.375, 0.5), (0.5, 0.125, 0.9375, 0.4375)])
def test_statistics_are_those_of_pixel_masks(box, rotate):
    view = SMALL_CROPS | dict(rotate=rotate)
    views = [view, view]
    measured = survival.measure(KEY, np.array([box]), views, 64, 4000)
    rng, count = np.random.default_rng(7), 2500
    (kept_a, size_a), (kept_b, _) = (brute_force(box, v, 64, count, rng) for v in views)
    row = survival.summarise(measured, {"x": np.array([0])}, 0.5)[0]
    holds_a, holds_b = kept_a >= 0.5, kept_b >= 0.5
    for name, holds in (("a", holds_a), ("b", holds_b), ("both", holds_a & holds_b)):
        share = holds.mean()
        error = np.sqrt(share * (1 - share) * (1 / count + 1 / 4000))
        assert row[f"held_{name}"] == pytest.approx(share, abs=4 * error + 1e-3)
    error = kept_a.std() * np.sqrt(1 / count + 1 / 4000)
    assert measured.kept[..., 0].mean() == pytest.approx(kept_a.mean(), abs=4 * error + 1e-3)
    medians = np.median(measured.size[0, :, 0][measured.kept[0, :, 0] >= 0.5])
    assert medians == pytest.approx(np.median(size_a[holds_a]), rel=0.04)


def test_how_many_boxes_are_drawn_together_changes_nothing(monkeypatch):
    rng = np.random.default_rng(8)
    start = rng.uniform(0, 0.6, (7, 2))
    boxes = np.concatenate([start, start + 0.3], axis=1)
    told = []
    whole = survival.measure(KEY, boxes, [SMALL_CROPS] * 2, 64, 10, told.append)
    monkeypatch.setattr(survival, "_AT_ONCE", 20)
    parts = survival.measure(KEY, boxes, [SMALL_CROPS] * 2, 64, 10, told.append)
    assert told == [70, 20, 20, 20, 10]
    for one, other in zip(whole, parts):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_larger_smallest_crops_hold_more():
    boxes = np.array([[0.1, 0.1, 0.3, 0.2]])
    shares = []
    for minimum in (0.1, 0.3, 0.6, 1.0):
        views = [SMALL_CROPS | dict(crop_scale=(minimum, 1.0))] * 2
        kept = survival.measure(KEY, boxes, views, 64, 4000)
        shares.append(survival.summarise(kept, {"x": np.array([0])}, 0.5)[0]["held_both"])
    assert shares == sorted(shares) and shares[0] < 0.6 and shares[-1] == 1


def test_rows_by_hand():
    kept = np.array([[[1.0, 0.5], [0.49, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.6, 0.9], [0.6, 0.2]]])
    size = np.array([[[10.0, 3.0], [5.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]], [[2.0, 6.0], [1.0, 9.0]]])
    before = np.array([[6.0, 8.0], [1.0, 1.0], [4.0, 4.0]])
    one = survival.Survival(kept, size, before)
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.1, 0.2], [0, 0, 0.2, 0.2]])
    groups = survival.groups(("mass", "edema", "mass"), boxes)
    assert list(groups) == ["edema", "mass", "all", "smallest quarter of all"]
    edema, mass, every, smallest = survival.summarise(one, groups, 0.5)
    assert mass == dict(
        finding="mass",
        boxes=2,
        held_a=0.75,
        held_b=0.75,
        held_both=0.5,
        size_before=5.0,
        size_after=pytest.approx(4.5),  # of 10, 3, 8, 2, 6, 1
        share_small=0.5,
    )
    assert edema["held_both"] == 0 and edema["size_after"] is edema["share_small"] is None
    assert every["finding"] == "all" and every["held_a"] == 0.5
    assert smallest["boxes"] == 1 and smallest["size_before"] == 1.0
    half = survival.summarise(one, {"mass": groups["mass"]}, 0.61)[0]
    assert half["held_a"] == 0.25

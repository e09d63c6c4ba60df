"""Curves against scikit-learn, and pictures that hold what they should."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.metrics import roc_curve as sklearn_roc_curve

from cxr_jax.report import charts, figures, svg, webpage
from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer.predictions import Predictions


@pytest.mark.parametrize("levels", [3, 10**6])
def test_roc_curve_is_that_of_scikit_learn(levels):
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 300).astype(float)
    scores = np.round(rng.normal(size=300) * levels) / levels + targets
    false_rate, true_rate = charts.roc_curve(targets, scores)
    expected = sklearn_roc_curve(targets, scores, drop_intermediate=False)
    np.testing.assert_allclose(false_rate, expected[0])
    np.testing.assert_allclose(true_rate, expected[1])
    area = np.trapezoid(true_rate, false_rate)
    assert area == pytest.approx(auroc(targets, scores), abs=1e-12)


def test_roc_curve_of_folds_is_their_mean():
    rng = np.random.default_rng(2)
    targets, fold = rng.integers(0, 2, 300).astype(float), rng.integers(0, 3, 300)
    scores = rng.normal(size=300) + targets + 100 * fold
    area = np.trapezoid(*charts.roc_curve(targets, scores, fold)[::-1])
    assert area == pytest.approx(auroc(targets, scores, fold), abs=0.003)


def test_roc_curve_drops_missing_targets():
    rng = np.random.default_rng(1)
    targets, scores = rng.integers(0, 2, 80).astype(float), rng.normal(size=80)
    holes = np.where(np.arange(80) % 4, targets, np.nan)
    kept = ~np.isnan(holes)
    for got, expected in zip(
        charts.roc_curve(holes, scores), charts.roc_curve(targets[kept], scores[kept])
    ):
        np.testing.assert_array_equal(got, expected)


def test_twenty_eight_runs_are_drawn_differently():
    """The study compares eight systems; there are seven colours."""
    styles = [figures.style(index) for index in range(28)]
    for one, two in itertools.combinations(styles, 2):
        assert sum(a != b for a, b in zip(one, two)) >= 2


def metric_row(label, auroc, low, high):
    return dict(label=label, auroc=auroc, low=low, high=high, n_pos=5, n_neg=5)


def pixels_of(path, colour):
    """Columns of the picture, as a share of its width, in which a colour is drawn."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    close = np.abs(picture - np.round(255 * np.array(to_rgb(colour)))).sum(axis=-1) < 12
    return np.flatnonzero(close.any(axis=0)) / picture.shape[1]


def test_forest_draws_every_run_and_longer_intervals_longer(tmp_path):
    runs = [
        ("narrow", [metric_row("mass", 0.8, 0.79, 0.81)]),
        ("wide", [metric_row("mass", 0.8, 0.6, 0.95)]),
    ]
    assert charts.forest(tmp_path / "f.png", runs)
    # The legend stands at the left edge: look right of it.
    spans = [pixels_of(tmp_path / "f.png", colour) for colour in svg.COLOURS[:2]]
    narrow, wide = (np.ptp(span[span > 0.3]) for span in spans)
    assert 0 < narrow < 0.3 * wide


def test_forest_grows_with_labels_and_shows_differences(tmp_path):
    rows = [metric_row(f"label {k}", 0.8, 0.7, 0.9) for k in range(5)]
    runs = [("a", [*rows, metric_row("macro", 0.8, None, None)]), ("b", rows)]
    difference = dict(difference=0.1, low=0.05, high=0.2)
    comparison = dict(
        a="a", b="b", **difference, labels=[dict(label=row["label"], **difference) for row in rows]
    )
    charts.forest(tmp_path / "one.png", [("a", rows[:2])])
    charts.forest(tmp_path / "many.png", runs)
    charts.forest(tmp_path / "compared.png", runs, [comparison])
    sizes = [Image.open(tmp_path / f"{n}.png").size for n in ("one", "many", "compared")]
    assert sizes[0][1] < sizes[1][1] and sizes[1][0] < sizes[2][0]
    # The panel of differences has the colour of the run that is compared with.
    assert (pixels_of(tmp_path / "compared.png", svg.COLOURS[1]) > 0.7).any()
    assert not (pixels_of(tmp_path / "compared.png", svg.COLOURS[0]) > 0.7).any()


def test_nothing_to_draw_leaves_no_file(tmp_path):
    rows = [metric_row("mass", None, None, None), metric_row("macro", None, None, None)]
    assert not charts.forest(tmp_path / "f.png", [("a", rows)])
    assert not list(tmp_path.iterdir())


def test_roc_has_a_panel_for_every_label(tmp_path):
    rng = np.random.default_rng(0)
    names = tuple(f"label {k}" for k in range(7))
    targets = rng.integers(0, 2, (50, 7)).astype(float)
    ids = np.arange(50).astype(str)
    runs = [("a", Predictions(ids, ids, names, targets, rng.normal(size=(50, 7))))]
    picture = charts.roc(tmp_path / "all.png", runs, names, "Curves")
    assert [panel.title for panel in picture.panels] == list(names)
    charts.roc(tmp_path / "one.png", runs, names[3:4], "Curves")
    every, one = (Image.open(tmp_path / f"{name}.png").size for name in ("all", "one"))
    assert every[0] > 2 * one[0] and every[1] > 2 * one[1]
    page = webpage.to_html("t", [picture])
    assert page.count('role="img"') == 7 and "1 more: label 6</summary>" in page


def test_a_panel_of_a_page_has_the_curve_and_the_pages_colours(tmp_path):
    targets, scores = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    ids = np.arange(4).astype(str)
    runs = [("a", Predictions(ids, ids, ("Mass",), targets[:, None], scores[:, None]))]
    text = charts.roc(tmp_path / "a.png", runs, ("Mass",), "").panels[0].svg
    assert not re.search("#[0-9a-f]{6}|http|url|clip|font-family", text)
    assert "AUROC .750" in text and "sensitivity" in text
    assert {"0.00", "0.25", "0.75"} <= set(re.findall(r">([\d.]+)</text>", text))  # whole
    (path,) = re.findall(r'<path d="([^"]*)" style="[^"]*stroke: var\(--c0\)', text)
    x, y = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float).T
    # Up, right, up, right, as the ranks 1 0 1 0 say; SVG counts downwards.
    steps = np.sign(np.stack([np.diff(x), -np.diff(y)]).round(1)).T.tolist()
    assert [step for step in steps if any(step)] == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_views_grid_pairs_the_views():
    a, b = (np.full((3, 4, 5, 1), grey, np.float32) for grey in (-0.01, 1.01))
    grid = figures.views_grid(a, b)
    assert grid.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 1)
    assert (grid[:4, :5] == 0).all() and (grid[-4:, -5:] == 255).all()
    assert (grid[4:6] == 128).all() and (grid[:, 5:7] == 128).all()

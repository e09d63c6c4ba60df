"""Pictures: AUROC with intervals, ROC curves, grids of images. Matplotlib without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from cxr_jax.report import tables
from cxr_jax.stats.auroc import auroc, binary_rows

# A label may hold dollar signs; it is no mathematics.
matplotlib.rcParams["text.parse_math"] = False

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers differ for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
INK, GREY, LINE, BAND = "#333333", "#777777", "#e5e5e5", "#f5f5f5"
_MAX_ROC_LABELS = 6
DPI = 160
_GAP = 2  # pixels between images, mid-grey: neither an image's black nor its white

Rows = Sequence[dict[str, Any]]


class Style(NamedTuple):
    colour: str
    marker: str
    line: str


def style(index: int) -> Style:
    """How the run with this number is drawn: 28 differ, in two ways or more beyond the seventh."""
    turn, place = divmod(index, len(COLOURS))
    marker = _MARKERS[(place + turn) % len(_MARKERS)]
    return Style(COLOURS[place], marker, _LINES[turn % len(_LINES)])


def new_figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches and its array [rows columns] of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(squeeze=False, **grid)


def bare(axes: Axes) -> None:
    """Takes away what frames the axes without saying anything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY)


def legend(figure: Figure, axes: Axes, names: Sequence[str], width: float) -> None:
    """The runs' names above the figure, as many beside each other as its width (inches) holds."""
    if len(names) == 1:
        return
    columns = max(1, min(len(names), int(width / (0.6 + 0.085 * max(map(len, names))))))
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)


def forest(
    path: Path, runs: Sequence[tuple[str, Rows]], comparisons: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """AUROC and 95 % interval of every label (rows) by every run (colours), to a PNG.

    `runs` are (name, metric rows). With comparisons of the first run a second panel shows its
    paired differences. The mean of several labels stands last, set apart; labels without an AUROC
    are left out. False, and no file, where no label has one.
    """
    by_run = [{row["label"]: row for row in rows if row["auroc"] is not None} for _, rows in runs]
    labels = [row["label"] for row in tables.shown(runs[0][1]) if row["label"] in by_run[0]]
    if not labels:
        return False
    by_comparison = [
        {row["label"]: row for row in (*c["labels"], {"label": "macro", **c})} for c in comparisons
    ]
    panels = 2 if comparisons else 1
    width, height = 7.5 + 4.7 * (panels - 1), 1.5 + len(labels) * (0.22 + 0.24 * len(runs))
    figure, grid = new_figure(
        width, height, ncols=panels, sharey=True, width_ratios=[3, 2][:panels]
    )
    axes = grid[0, 0]
    draw_intervals(axes, labels, by_run, "auroc", tables.with_interval, range(len(runs)), len(runs))
    axes.set_yticks(range(len(labels)), ["mean" if name == "macro" else name for name in labels])
    if labels[-1] == "macro":
        axes.get_yticklabels()[-1].set_fontweight("bold")
    lows = [_limits(rows[name], "auroc")[0] for rows in by_run for name in labels if name in rows]
    left = np.floor(20 * min(lows)) / 20 - 0.02
    axes.set_xlim(max(-0.01, min(left, 0.93)), 1.005)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlabel("AUROC, 95 % interval")
    legend(figure, axes, [name for name, _ in runs], width)
    if comparisons:
        axes = grid[0, 1]
        names = [name for name, _ in runs]
        colours = [names.index(c["b"]) if c["b"] in names else k for k, c in enumerate(comparisons)]
        draw_intervals(
            axes, labels, by_comparison, "difference", tables.with_signs, colours, len(runs)
        )
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_xlabel(
            f"difference in AUROC, 95 % interval\n({comparisons[0]['a']} less the other)"
        )
    figure.savefig(path, dpi=DPI)
    return True


def draw_intervals(
    axes: Axes,
    labels: Sequence[str],
    series: Sequence[Mapping[str, Mapping[str, Any]]],
    field: str,
    words: Any,
    colours: Sequence[int],
    num_runs: int,
) -> None:
    """One row a label: each series' point and interval, and the numbers in words at the right."""
    step = 0.24 / (0.22 + 0.24 * num_runs)
    for place in range(0, len(labels) if len(labels) > 2 else 0, 2):
        axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)  # below the grid
    if labels[-1] == "macro":
        axes.axhline(len(labels) - 1.5, color=GREY, linewidth=1)
    for index, (rows, which) in enumerate(zip(series, colours)):
        shift = (index - (len(series) - 1) / 2) * step
        colour, marker, _ = style(which)  # a short interval would lose its ends in dashes
        axes.plot([], [], marker, color=colour, label=str(which))  # for the legend
        for place, label in enumerate(labels):
            row = rows.get(label)
            if row is None or row[field] is None:
                continue
            low, high = _limits(row, field)
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=2)
            axes.plot(row[field], place + shift, marker, color=colour, markersize=6)
            axes.text(
                1.02,
                place + shift,
                words(row),
                transform=axes.get_yaxis_transform(),
                color=INK,
                fontsize=8.5,
                verticalalignment="center",
            )
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    bare(axes)


def _limits(row: Mapping[str, Any], field: str) -> tuple[float, float]:
    """The interval, or the point itself where there is none: it then stands alone."""
    return tuple(row[field] if row[end] is None else row[end] for end in ("low", "high"))


def roc(path: Path, runs: Sequence[tuple[str, Any]], labels: Sequence[str]) -> list[str]:
    """ROC curves of the first labels, one panel each, to a PNG; returns the labels drawn.

    `runs` are (name, Predictions) that all have these labels, with both classes.
    """
    shown = list(labels[:_MAX_ROC_LABELS])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    width = 3.5 * columns + 0.5
    figure, grid = new_figure(width, 3.5 * rows + 0.7, nrows=rows, ncols=columns)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, label in zip(grid.flat, shown):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        for index, (name, predictions) in enumerate(runs):
            column = predictions.label_names.index(label)
            targets, scores = predictions.targets[:, column], predictions.scores[:, column]
            colour, _, line = style(index)
            axes.plot(*roc_curve(targets, scores), line, color=colour, linewidth=1.8, label=name)
            axes.text(
                0.97,
                0.04 + 0.075 * (len(runs) - 1 - index),
                f"AUROC {tables.number(auroc(targets, scores))}",
                color=colour,
                horizontalalignment="right",
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", title=label)
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")
        bare(axes)
    legend(figure, grid.flat[0], [name for name, _ in runs], width)
    figure.savefig(path, dpi=DPI)
    return shown


def roc_curve(
    targets: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """(false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1).

    Tied scores step together, so that the area below is the AUROC with ties counted half.
    """
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    targets, scores = targets[known], scores[known]
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order] == 1)
    misses = np.cumsum(targets[order] == 0)
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    return (
        np.concatenate([[0.0], misses[last] / max(misses[-1], 1)]),
        np.concatenate([[0.0], hits[last] / max(hits[-1], 1)]),
    )


def views_grid(
    view_a: Float[np.ndarray, "n h w 1"], view_b: Float[np.ndarray, "n h w 1"]
) -> UInt8[np.ndarray, "height width 1"]:
    """The two views of n images, one pair above the other, from grey values in [0, 1]."""
    images = np.concatenate([view_a, view_b])[..., 0]
    return _tile(np.round(255 * np.clip(images, 0, 1)).astype(np.uint8), len(view_a))[..., None]


def contact_sheet(path: Path, images: UInt8[np.ndarray, "n h w"], columns: int = 8) -> None:
    """The images in rows of `columns`, to a PNG."""
    Image.fromarray(_tile(images, columns)).save(path)


def _tile(images: UInt8[np.ndarray, "n h w"], columns: int) -> UInt8[np.ndarray, "height width"]:
    count, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP), 128, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet

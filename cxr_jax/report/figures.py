"""Pictures: AUROC with intervals, ROC curves, label curves, grids of images, without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cxr_jax.report import tables
from cxr_jax.stats.auroc import auroc, binary_rows
from cxr_jax.stats.verdict import Comparison

# A label may hold dollar signs; it is no mathematics.
matplotlib.rcParams["text.parse_math"] = False

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers differ for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
INK, GREY, LINE, BAND = "#333333", "#777777", "#e5e5e5", "#f5f5f5"
_MAX_PANELS = 6
DPI = 160
_GAP = 2  # pixels between images, mid-grey: neither an image's black nor its white

Rows = Sequence[dict[str, Any]]


def style(index: int) -> tuple[str, str, str]:
    """Returns colour, marker and line of the run with this number; 28 differ, in two ways or more.

    >>> style(0), style(7)
    (('#0072B2', 'o', '-'), ('#0072B2', 's', '--'))
    """
    turn, place = divmod(index, len(COLOURS))
    marker = _MARKERS[(place + turn) % len(_MARKERS)]
    return COLOURS[place], marker, _LINES[turn % len(_LINES)]


def new_figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """Returns a figure of this size in inches and its array [rows columns] of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(squeeze=False, **grid)


def bare(axes: Axes, grid: str = "") -> None:
    """Removes the frame; draws grid lines ("x", "y" or "both") below what is plotted."""
    if grid:
        axes.grid(axis=grid, color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY)


def legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """Writes the runs' names above the figure, as many beside each other as its width holds."""
    if len(names) == 1:
        return
    fit = int(figure.get_figwidth() / (0.6 + 0.085 * max(map(len, names))))
    columns = max(1, min(len(names), fit))
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)


def label_panels(labels: Sequence[str], side: float) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure with a panel, `side` inches wide, for each of the first six labels."""
    shown = list(labels[:_MAX_PANELS])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = new_figure(side * columns + 0.5, side * rows + 0.7, nrows=rows, ncols=columns)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.get_layout_engine().set(h_pad=0.12)  # titles away from the axes above
    panels = dict(zip(shown, grid.flat))
    for label, axes in panels.items():
        axes.set_title(label)
    return figure, panels


def forest(
    path: Path, runs: Sequence[tuple[str, Rows]], comparisons: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Draws what is measured, and intervals, of labels (rows) by runs (colours) to a PNG.

    `runs` are (name, metric rows). With comparisons of the first run a second panel shows its
    paired differences. The mean of several labels comes last, set apart; labels without an AUROC
    are left out. Returns False, and draws no file, where no label has one.
    """
    what, field = tables.measure(runs[0][1][-1]), tables.key(runs[0][1][-1])
    by_run = [{row["label"]: row for row in rows if row[field] is not None} for _, rows in runs]
    labels = [row["label"] for row in tables.shown(runs[0][1]) if row["label"] in by_run[0]]
    if not labels:
        return False
    by_comparison = [
        {row["label"]: row for row in (*c["labels"], {"label": "macro", **c})} for c in comparisons
    ]
    names = [name for name, _ in runs]
    panels = 2 if comparisons else 1
    width, height = 7.5 + 4.7 * (panels - 1), 1.5 + len(labels) * (0.22 + 0.24 * len(runs))
    columns = dict(ncols=panels, sharey=True, width_ratios=[3, 2][:panels])
    figure, grid = new_figure(width, height, **columns)
    axes = grid[0, 0]
    _draw_intervals(axes, labels, by_run, field, range(len(runs)), len(runs))
    axes.set_yticks(range(len(labels)), ["mean" if name == "macro" else name for name in labels])
    if labels[-1] == "macro":
        axes.get_yticklabels()[-1].set_fontweight("bold")
    lows = [_limits(rows[name], field)[0] for rows in by_run for name in labels if name in rows]
    left = np.floor(20 * min(lows)) / 20 - 0.02
    axes.set_xlim(max(-0.01, min(left, 0.93)), 1.005)
    if what == "AUROC":
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlabel(f"{what}, 95 % interval")
    legend(figure, axes, names)
    if comparisons:
        axes = grid[0, 1]
        colours = [names.index(c["b"]) if c["b"] in names else k for k, c in enumerate(comparisons)]
        _draw_intervals(axes, labels, by_comparison, "difference", colours, len(runs))
        axes.axvline(0, color=GREY, linewidth=1)
        whose = f"({comparisons[0]['a']} less the other)"
        axes.set_xlabel(f"difference in {what}, 95 % interval\n{whose}")
    figure.savefig(path, dpi=DPI)
    return True


def _draw_intervals(
    axes: Axes,
    labels: Sequence[str],
    series: Sequence[Mapping[str, Mapping[str, Any]]],
    field: str,
    colours: Sequence[int],
    num_runs: int,
) -> None:
    """Draws one row a label: each series' point and interval, with the numbers at the right."""
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
            if row is None or tables.absent(row[field]):
                continue
            low, high = _limits(row, field)
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=2)
            axes.plot(row[field], place + shift, marker, color=colour, markersize=6)
            words = tables.with_interval(row, field)
            at_right = dict(transform=axes.get_yaxis_transform(), verticalalignment="center")
            axes.text(1.02, place + shift, words, color=INK, fontsize=8.5, **at_right)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    bare(axes, "x")


def _limits(row: Mapping[str, Any], field: str) -> tuple[float, float]:
    """Returns the interval, or the point itself where there is none."""
    return tuple(row[field] if tables.absent(row[end]) else row[end] for end in ("low", "high"))


def roc(path: Path, runs: Sequence[tuple[str, Any]], labels: Sequence[str]) -> list[str]:
    """Draws ROC curves of the first labels, one panel each, to a PNG; returns the labels drawn.

    `runs` are (name, Predictions) that all have these labels, with both classes.
    """
    figure, panels = label_panels(labels, 3.5)
    for label, axes in panels.items():
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
        for index, (name, predictions) in enumerate(runs):
            column = predictions.label_names.index(label)
            targets, scores = predictions.targets[:, column], predictions.scores[:, column]
            given = targets, scores, predictions.fold
            colour, _, line = style(index)
            axes.plot(*roc_curve(*given), line, color=colour, linewidth=1.8, label=name)
            words = f"AUROC {tables.number(auroc(*given))}"
            height = 0.04 + 0.075 * (len(runs) - 1 - index)
            axes.text(0.97, height, words, color=colour, horizontalalignment="right")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")
        bare(axes)
    legend(figure, next(iter(panels.values())), [name for name, _ in runs])
    figure.savefig(path, dpi=DPI)
    return list(panels)


def roc_curve(
    targets: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Returns (false positive rate, true positive rate) at every threshold, (0, 0) to (1, 1).

    Tied scores step together, so that the area below is the AUROC with ties counted half. With
    `fold` the sensitivity is the mean of the folds', weighted by their pairs as in `auroc`.

    >>> false_rate, true_rate = roc_curve(np.array([0.0, 1.0, 1.0]), np.array([0.2, 0.1, 0.9]))
    >>> false_rate.tolist(), true_rate.tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    targets, scores = targets[known], scores[known]
    if fold is not None:
        rates, parts = np.linspace(0, 1, 501), [fold[known] == one for one in np.unique(fold)]
        pairs = [int(targets[own].sum() * (1 - targets[own]).sum()) for own in parts]
        curves = [np.interp(rates, *roc_curve(targets[own], scores[own])) for own in parts]
        return np.append(0, rates), np.append(0, np.average(curves, axis=0, weights=pairs))
    order = np.argsort(-scores, kind="stable")
    ranked, outcomes = scores[order], targets[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    counts = [np.cumsum(outcomes == kind) for kind in (0, 1)]
    rates = [np.concatenate([[0.0], count[last] / max(count[-1], 1)]) for count in counts]
    return rates[0], rates[1]


def label_curves(
    path: Path, title: str, curves: Mapping[str, Sequence[Any]], measure: str = "AUROC"
) -> None:
    """Draws macro means against training images (log scale) to a PNG, a line and band each.

    Every encoder is in `curves`, in the order that decides its colour, even without a score. A
    score has `images`, `mean` and `interval`.
    """
    figure, grid = new_figure(7.0, 4.6)
    axes = grid[0, 0]
    for index, scores in enumerate(curves.values()):
        colour, marker, line = style(index)
        images = [score.images for score in scores]
        limits = np.array([score.interval for score in scores]).reshape(-1, 2)
        axes.fill_between(images, limits[:, 0], limits[:, 1], color=colour, alpha=0.13, linewidth=0)
        means = [score.mean for score in scores]
        axes.plot(images, means, line, marker=marker, color=colour, linewidth=1.8, markersize=6)
    axes.set_xscale("log")
    axes.set_xticks(sorted({score.images for scores in curves.values() for score in scores}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="labelled training images", ylabel=f"{measure}, 95 % interval")
    axes.set_title(title, fontsize=11, loc="left")
    bare(axes, "y")
    for line, name in zip(axes.get_lines(), curves):
        line.set_label(name)
    legend(figure, axes, list(curves))
    figure.savefig(path, dpi=DPI)


def differences(
    path: Path,
    verdicts: Mapping[tuple[str, str], Comparison],
    encoders: Sequence[str],
    datasets: Sequence[str],
    measure: str = "AUROC",
) -> None:
    """Draws the difference from the reference, `encoders[0]`, on every dataset (rows) to a PNG.

    `verdicts` are by encoder and dataset. The band around zero is the margin, within which a
    difference does not matter.
    """
    shown = [name for name in datasets if any((other, name) in verdicts for other in encoders)]
    others = [name for name in encoders[1:] if any((name, place) in verdicts for place in shown)]
    rows = [
        {name: verdicts[other, name]._asdict() for name in shown if (other, name) in verdicts}
        for other in others
    ]
    figure, grid = new_figure(8.5, 1.4 + len(shown) * (0.22 + 0.24 * len(others)))
    axes = grid[0, 0]
    margin = next(iter(verdicts.values())).margin
    axes.axvspan(-margin, margin, color=GREY, alpha=0.2, linewidth=0, zorder=0.5)
    axes.axvline(0, color=GREY, linewidth=1)
    colours = [list(encoders).index(name) for name in others]
    _draw_intervals(axes, shown, rows, "difference", colours, len(others))
    axes.set_yticks(range(len(shown)), shown)
    whose = f" of {others[0]}" if len(others) == 1 else ""
    axes.set_xlabel(f"{measure}{whose} less that of {encoders[0]}, 95 % interval")
    legend(figure, axes, others)
    figure.savefig(path, dpi=DPI)


def views_grid(
    view_a: Float[np.ndarray, "n h w 1"], view_b: Float[np.ndarray, "n h w 1"]
) -> UInt8[np.ndarray, "height width 1"]:
    """Returns the two views of n images, one pair above the other, from grey values in [0, 1]."""
    rows = [
        np.round(255 * np.clip(view[..., 0], 0, 1)).astype(np.uint8) for view in (view_a, view_b)
    ]
    gaps = ((0, 0), (0, _GAP), (0, _GAP))
    rows = [np.hstack(list(np.pad(row, gaps, constant_values=128))) for row in rows]
    return np.vstack(rows)[:-_GAP, :-_GAP, None]

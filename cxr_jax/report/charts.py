"""The charts of reports: AUROC with intervals, differences, ROC curves, label curves."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from cxr_jax.report import tables
from cxr_jax.report.blocks import Picture
from cxr_jax.report.figures import bare, finish, multiples, new_figure, small_panel, style
from cxr_jax.report.svg import BAND, GREY, INK
from cxr_jax.stats.auroc import auroc, binary_rows
from cxr_jax.stats.verdict import Comparison

_CURVE, _ROWS = 3.6, 4.9  # inches: the widths of panels on a page
_WIDTH = 22  # characters of a line of a label's name

Rows = Sequence[dict[str, Any]]


def forest(
    path: Path,
    runs: Sequence[tuple[str, Rows]],
    comparisons: Sequence[Mapping[str, Any]] = (),
    caption: str = "",
) -> Picture | None:
    """Draws what is measured, and intervals, of labels (rows) by runs (colours).

    `runs` are (name, metric rows). With comparisons of the first run a second panel shows its
    paired differences. The mean of several labels comes last, set apart; labels without an AUROC
    are left out. Returns None, and draws no file, where no label has one.
    """
    what, field = tables.measure(runs[0][1][-1]), tables.key(runs[0][1][-1])
    by_run = [{row["label"]: row for row in rows if row[field] is not None} for _, rows in runs]
    labels = [row["label"] for row in tables.shown(runs[0][1]) if row["label"] in by_run[0]]
    if not labels:
        return None
    by_comparison = [
        {row["label"]: row for row in (*c["labels"], {"label": "macro", **c})} for c in comparisons
    ]
    names = [name for name, _ in runs]
    lows = [_limits(rows[name], field)[0] for rows in by_run for name in labels if name in rows]
    left = max(-0.01, min(np.floor(20 * min(lows)) / 20 - 0.02, 0.93))

    def draw_auroc(axes: Axes) -> None:
        _draw_intervals(axes, labels, by_run, field, range(len(runs)), len(runs))
        axes.set_xlim(left, 1.005)
        if what == "AUROC":
            axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
        axes.set_xlabel(f"{what}, 95 % interval")

    def draw_differences(axes: Axes) -> None:
        colours = [names.index(c["b"]) if c["b"] in names else k for k, c in enumerate(comparisons)]
        _draw_intervals(axes, labels, by_comparison, "difference", colours, len(runs))
        axes.axvline(0, color=GREY, linewidth=1)
        # A long name would leave the picture.
        axes.set_xlabel(f"{comparisons[0]['a']} less the other's,\n{what}, 95 % interval")

    drawn = [draw_auroc, draw_differences][: 2 if comparisons else 1]
    height = 1.5 + len(labels) * _row_height(labels, len(runs))
    columns = dict(ncols=len(drawn), sharey=True, width_ratios=[3, 2][: len(drawn)])
    figure, grid = new_figure(7.5 + 4.7 * (len(drawn) - 1), height, **columns)
    for draw, axes in zip(drawn, grid[0]):
        draw(axes)
    title = what[0].upper() + what[1:]
    titles = (title, "Differences") if comparisons else ("",)
    panels = [small_panel((_ROWS, height - 0.6), *each) for each in zip(drawn, titles)]
    return finish(figure, path, dict(enumerate(names)), panels, caption)


def _draw_intervals(
    axes: Axes,
    labels: Sequence[str],
    series: Sequence[Mapping[str, Mapping[str, Any]]],
    field: str,
    colours: Sequence[int],
    num_runs: int,
) -> None:
    """Draws one row a label: each series' point and interval, with the numbers at the right."""
    step = 0.24 / _row_height(labels, num_runs)
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
    shown = ["mean" if name == "macro" else "\n".join(folded(name, _WIDTH)) for name in labels]
    axes.set_yticks(range(len(labels)), shown)
    if labels[-1] == "macro" and (words := axes.get_yticklabels()):  # a second panel has none
        words[-1].set_fontweight("bold")
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    bare(axes, "x")


def _row_height(labels: Sequence[str], num_runs: int) -> float:
    """Returns the inches of a label's row: its runs' points, or the lines of the longest name."""
    return max(0.22 + 0.24 * num_runs, 0.18 * max(len(folded(name, _WIDTH)) for name in labels))


def folded(name: str, width: int) -> list[str]:
    """Cuts a name into lines, behind spaces, colons and @ where that is enough, else other marks.

    >>> folded("nih_chestxray14:any_finding@folds=5", 22)
    ['nih_chestxray14:', 'any_finding@folds=5']
    >>> folded("pulmonary_edema_severity is mild", 22)
    ['pulmonary_edema_', 'severity is mild']
    """
    lines = [""]
    for part in re.split(r"(?<=[:@\s])", name):
        for piece in re.split("(?<=[_/+=-])", part) if len(part.rstrip()) > width else [part]:
            if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return [cut for line in lines for cut in textwrap.wrap(line, width)]


def _limits(row: Mapping[str, Any], field: str) -> tuple[float, float]:
    return tuple(row[field] if tables.absent(row[end]) else row[end] for end in ("low", "high"))


def roc(
    path: Path, runs: Sequence[tuple[str, Any]], labels: Sequence[str], caption: str
) -> Picture:
    """Draws ROC curves of the labels, one panel each.

    `runs` are (name, Predictions) that all have these labels, with both classes.
    """

    def draw(axes: Axes, label: str) -> None:
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

    return multiples(path, {k: name for k, (name, _) in enumerate(runs)}, labels, draw, caption)


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
) -> Picture:
    """Draws macro means against training images (log scale), a line and band each.

    Every encoder is in `curves`, in the order that decides its colour, even without a score. A
    score has `images`, `mean` and `interval`.
    """

    def draw(axes: Axes) -> None:
        for index, (name, scores) in enumerate(curves.items()):
            colour, marker, line = style(index)
            images = [score.images for score in scores]
            limits = np.array([score.interval for score in scores]).reshape(-1, 2)
            band = dict(color=colour, alpha=0.13, linewidth=0)
            axes.fill_between(images, limits[:, 0], limits[:, 1], **band)
            drawn = dict(marker=marker, color=colour, linewidth=1.8, markersize=6, label=name)
            axes.plot(images, [score.mean for score in scores], line, **drawn)
        axes.set_xscale("log")
        axes.set_xticks(sorted({score.images for scores in curves.values() for score in scores}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="labelled training images", ylabel=f"{measure}, 95 % interval")
        bare(axes, "y")

    figure, grid = new_figure(7.0, 4.6)
    draw(grid[0, 0])
    grid[0, 0].set_title(title, fontsize=11, loc="left")
    panels = [small_panel((_CURVE, 3.0), draw, "")]
    return finish(figure, path, dict(enumerate(curves)), panels, title)


def differences(
    path: Path,
    verdicts: Mapping[tuple[str, str], Comparison],
    encoders: Sequence[str],
    datasets: Sequence[str],
    caption: str,
    measure: str = "AUROC",
) -> Picture:
    """Draws the difference from the reference, `encoders[0]`, on every dataset (rows).

    `verdicts` are by encoder and dataset. The band around zero is the margin, within which a
    difference does not matter.
    """
    shown = [name for name in datasets if any((other, name) in verdicts for other in encoders)]
    others = [name for name in encoders[1:] if any((name, place) in verdicts for place in shown)]
    rows = [
        {name: verdicts[other, name]._asdict() for name in shown if (other, name) in verdicts}
        for other in others
    ]
    margin = next(iter(verdicts.values())).margin
    colours = {list(encoders).index(name): name for name in others}
    whose = f" of {others[0]}" if len(others) == 1 else ""

    def draw(axes: Axes) -> None:
        axes.axvspan(-margin, margin, color=GREY, alpha=0.2, linewidth=0, zorder=0.5)
        axes.axvline(0, color=GREY, linewidth=1)
        _draw_intervals(axes, shown, rows, "difference", list(colours), len(others))
        axes.set_xlabel(f"{measure}{whose} less that of {encoders[0]}, 95 % interval")

    height = 1.4 + len(shown) * _row_height(shown, len(others))
    figure, grid = new_figure(8.5, height)
    draw(grid[0, 0])
    panels = [small_panel((_ROWS, height - 0.5), draw, "")]
    return finish(figure, path, colours, panels, caption)

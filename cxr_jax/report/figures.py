"""Pictures: AUROC with intervals, ROC curves, grids of films. Matplotlib without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr_jax.report import tables
from cxr_jax.stats.auroc import binary_rows

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MAX_ROC_LABELS = 6


def _figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**grid)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def forest(path: Path, runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> None:
    """AUROC and 95 % interval of every label (rows) by every run (colours), to a PNG.

    `runs` are (name, metric rows); rows without an AUROC are left out, the mean of several stands on top.
    """
    labels = [row["label"] for row in tables.shown(runs[0][1]) if row["auroc"] is not None][::-1]
    figure, axes = _figure(7.5, 1.2 + 0.22 * len(labels) * (len(runs) + 0.8))
    for index, (name, rows) in enumerate(runs):
        by_label = {row["label"]: row for row in rows if row["auroc"] is not None}
        shown = [(k, by_label[label]) for k, label in enumerate(labels) if label in by_label]
        places = [-k + (len(runs) / 2 - index - 0.5) * 0.8 / len(runs) for k, _ in shown]
        values = [row["auroc"] for _, row in shown]
        # A missing limit is drawn as none: the point stands alone.
        low = [v - (v if row["low"] is None else row["low"]) for v, (_, row) in zip(values, shown)]
        high = [
            (v if row["high"] is None else row["high"]) - v for v, (_, row) in zip(values, shown)
        ]
        axes.errorbar(
            values,
            places,
            xerr=np.maximum([low, high], 0),
            fmt="o",
            markersize=5,
            capsize=3,
            color=COLOURS[index % len(COLOURS)],
            label=name,
        )
    for k in range(len(labels) - 1):
        axes.axhline(-k - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_ylim(0.5 - len(labels), 0.5)
    axes.set_yticks([-k for k in range(len(labels))], labels)
    axes.axvline(0.5, color="#888888", linewidth=0.8, linestyle=":")
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, 0.48), min(max(right, 1.0), 1.005))
    axes.set_xlabel("AUROC on the test films, 95 % interval (patients resampled)")
    axes.tick_params(axis="y", length=0)
    _bare(axes)
    figure.legend(loc="outside upper center", ncols=min(len(runs), 3), frameon=False)
    figure.savefig(path, dpi=150)


def roc(
    path: Path,
    runs: Sequence[tuple[str, Any]],
    labels: Sequence[str],
) -> list[str]:
    """ROC curves of the first labels, one panel each, to a PNG; returns the labels drawn.

    `runs` are (name, Predictions) over the same label names.
    """
    shown = list(labels[:_MAX_ROC_LABELS])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = _figure(
        3.4 * columns + 0.4, 3.4 * rows + 0.6, nrows=rows, ncols=columns, squeeze=False
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, label in zip(grid.flat, shown):
        for index, (name, predictions) in enumerate(runs):
            column = predictions.label_names.index(label)
            false_rate, true_rate = roc_curve(
                predictions.targets[:, column], predictions.scores[:, column]
            )
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(false_rate, true_rate, color=colour, linewidth=1.6, label=name)
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle=":")
        axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal", title=label)
        axes.set_xlabel("1 - specificity")
        axes.set_ylabel("sensitivity")
        _bare(axes)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(runs)), frameon=False)
    figure.savefig(path, dpi=150)
    return shown


def roc_curve(
    targets: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """(false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1)."""
    targets, scores = binary_rows(targets, scores)
    known = ~np.isnan(targets)
    targets, scores = targets[known], scores[known]
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order] == 1)
    misses = np.cumsum(targets[order] == 0)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # ties step together
    return (
        np.concatenate([[0.0], misses[last] / max(misses[-1], 1)]),
        np.concatenate([[0.0], hits[last] / max(hits[-1], 1)]),
    )


def views_grid(
    view_a: Float[np.ndarray, "n h w 1"], view_b: Float[np.ndarray, "n h w 1"]
) -> UInt8[np.ndarray, "height width 1"]:
    """The two views of n films, one pair above the other: [2 h, n w, 1], grey values from [0, 1]."""
    rows = [np.concatenate(list(view), axis=1) for view in (view_a, view_b)]
    return np.round(255 * np.concatenate(rows, axis=0)).astype(np.uint8)

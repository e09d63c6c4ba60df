"""Pictures of a benchmark: label-efficiency curves, and differences from the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, NullLocator

from cxr_jax.report import tables
from cxr_jax.report.benchmark.scores import Score
from cxr_jax.report.figures import (
    DPI,
    GREY,
    LINE,
    bare,
    draw_intervals,
    legend,
    new_figure,
    style,
)
from cxr_jax.stats.verdict import Comparison


def label_curves(path: Path, title: str, curves: Mapping[str, Sequence[Score]]) -> None:
    """Macro AUROC against training images (log scale), to a PNG: a line and a band per encoder.

    Every encoder is in `curves`, in the order that decides its colour, also one without a score.
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
    ticks = sorted({score.images for scores in curves.values() for score in scores})
    axes.set_xscale("log")
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set(xlabel="labelled training images", ylabel="AUROC, 95 % interval")
    axes.set_title(title, fontsize=11, loc="left")
    bare(axes)
    for line, name in zip(axes.get_lines(), curves):
        line.set_label(name)
    legend(figure, axes, list(curves), 7.0)
    figure.savefig(path, dpi=DPI)


def differences(
    path: Path,
    verdicts: Mapping[tuple[str, str], Comparison],
    encoders: Sequence[str],
    datasets: Sequence[str],
) -> None:
    """Difference from the reference, `encoders[0]`, on every dataset (rows), to a PNG.

    The band around zero is the margin, within which a difference does not matter.
    """
    shown = [name for name in datasets if any((other, name) in verdicts for other in encoders)]
    others = [name for name in encoders[1:] if any((name, place) in verdicts for place in shown)]
    rows = [
        {name: _row(verdicts[other, name]) for name in shown if (other, name) in verdicts}
        for other in others
    ]
    width, height = 8.5, 1.4 + len(shown) * (0.22 + 0.24 * len(others))
    figure, grid = new_figure(width, height)
    axes = grid[0, 0]
    margin = next(iter(verdicts.values())).margin
    axes.axvspan(-margin, margin, color=GREY, alpha=0.2, linewidth=0, zorder=0.5)
    axes.axvline(0, color=GREY, linewidth=1)
    colours = [list(encoders).index(name) for name in others]
    draw_intervals(axes, shown, rows, "difference", tables.with_signs, colours, len(others))
    axes.set_yticks(range(len(shown)), shown)
    whose = f" of {others[0]}" if len(others) == 1 else ""
    axes.set_xlabel(f"AUROC{whose} less that of {encoders[0]}, 95 % interval")
    legend(figure, axes, others, width)
    figure.savefig(path, dpi=DPI)


def _row(comparison: Comparison) -> dict[str, float | None]:
    fields = ("difference", "low", "high")
    values = {field: getattr(comparison, field) for field in fields}
    return {field: None if np.isnan(value) else value for field, value in values.items()}

"""How figures look, and figures of many panels; without a display.

A chart is a PNG beside the page and, on it, panels of SVG: one drawing, at two sizes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_jax.report import svg
from cxr_jax.report.blocks import Panel, Picture
from cxr_jax.report.svg import COLOURS, GREY, LINE

# A label may hold dollar signs; it is no mathematics.
matplotlib.rcParams["text.parse_math"] = False

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", ":", "-.")
DPI = 160
_SMALL = 3.0  # inches: a panel on a page
_GAP = 2  # pixels between images, mid-grey: neither an image's black nor its white


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


def finish(
    figure: Figure, path: Path, runs: Mapping[int, str], panels: Sequence[Panel], caption: str
) -> Picture:
    """Writes the runs' names above the figure, and it to a PNG; returns it and a page's panels.

    `runs` are the names of what is drawn, by the number that decides their style.
    """
    names = list(runs.values())
    if len(names) > 1:  # as many beside each other as its width holds
        fit = int(figure.get_figwidth() / (0.6 + 0.085 * max(map(len, names))))
        handles, _ = figure.axes[0].get_legend_handles_labels()
        columns = max(1, min(len(names), fit))
        figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False)
    figure.savefig(path, dpi=DPI)
    looks = [style(index) for index in runs]
    keys = [(name, svg.sample(look[0], look[2])) for name, look in zip(names, looks)]
    return Picture(path, caption, panels, keys)


def label_panels(labels: Sequence[str], side: float) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure with a panel, `side` inches wide, for each label."""
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    figure, grid = new_figure(side * columns + 0.5, side * rows + 0.7, nrows=rows, ncols=columns)
    for axes in grid.flat[len(labels) :]:
        axes.set_visible(False)
    figure.get_layout_engine().set(h_pad=0.12)  # titles away from the axes above
    panels = dict(zip(labels, grid.flat))
    for label, axes in panels.items():
        axes.set_title(label)
    return figure, panels


def multiples(
    path: Path,
    runs: Mapping[int, str],
    labels: Sequence[str],
    draw: Callable[[Axes, str], None],
    caption: str,
) -> Picture:
    """Draws every label by `draw`, beside each other to a PNG and each as a panel of a page."""
    figure, panels = label_panels(labels, 3.5 if len(labels) > 1 else 4.3)
    for label, axes in panels.items():
        draw(axes, label)
    small = [small_panel((_SMALL, _SMALL), partial(draw, label=label), label) for label in labels]
    return finish(figure, path, runs, small, caption)


def small_panel(size: tuple[float, float], draw: Callable[[Axes], None], title: str) -> Panel:
    """Returns what `draw` draws on axes of this size in inches, for a page."""
    figure, grid = new_figure(*size)
    draw(grid[0, 0])
    return svg.panel(figure, title, f"{title}: {grid[0, 0].get_xlabel()}".removeprefix(": "))


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

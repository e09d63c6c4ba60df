"""The picture of an audit of augmentations: findings in two views, and what larger crops save."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import PercentFormatter

from cxr_jax.report.figures import COLOURS

_HELD, _LOST = COLOURS[5], COLOURS[1]  # both bright on a grey image
_DPI = 130


class Shown(NamedTuple):
    """An image or a view of it, grey, with the outline (y, x in its pixels) of one finding."""

    image: UInt8[np.ndarray, "h w"]
    outline: Float[np.ndarray, "corners 2"]
    caption: str
    held: bool


def draw(
    path: Path,
    examples: Sequence[Sequence[Shown]],
    minima: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    own_minima: Mapping[str, float],
    enough: float,
) -> None:
    """Writes a PNG.

    Args:
      examples: rows of an image and its views, all of one length.
      minima: of crop_scale, ascending.
      curves: finding -> share of the pairs that both hold it, at each of `minima`.
      own_minima: view name -> the minimum that the config has.
      enough: a share that is marked.
    """
    rows, columns = len(examples), len(examples[0])
    width, height = 2.3 * columns, max(2.5 * rows, 5.0)
    figure = Figure(figsize=(width + 6, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=[width, 6])
    grid = left.subplots(rows, columns, squeeze=False)
    for axes, shown in zip(grid.flat, (one for row in examples for one in row)):
        _image(axes, shown)
    _curves(right.subplots(), minima, curves, own_minima, enough)
    figure.savefig(path, dpi=_DPI)


def _image(axes: Axes, shown: Shown) -> None:
    height, width = shown.image.shape
    # Pixel j covers [j, j + 1), as in the geometry of the views.
    axes.imshow(shown.image, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    colour = _HELD if shown.held else _LOST
    style = "-" if shown.held else "--"
    axes.add_patch(
        Polygon(
            shown.outline[:, ::-1], fill=False, edgecolor=colour, linewidth=1.8, linestyle=style
        )
    )
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_title(shown.caption, fontsize=9)
    axes.axis("off")


def _curves(
    axes: Axes,
    minima: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    own_minima: Mapping[str, float],
    enough: float,
) -> None:
    for index, (name, shares) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(minima, shares, "o-", color=colour, label=name, clip_on=False, zorder=3)
    for minimum in sorted(set(own_minima.values())):
        names = ", ".join(name for name, own in own_minima.items() if own == minimum)
        axes.axvline(minimum, color="#777777", linestyle=":", linewidth=1.5)
        axes.annotate(
            f"config: {names}",
            (minimum, 0.01),
            xytext=(4, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
            color="#555555",
        )
    axes.axhline(enough, color="#bbbbbb", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="smallest crop of both views (share of the image)")
    axes.set_ylabel("pairs of views that both hold the finding")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.legend(loc="lower right", frameon=True, edgecolor="none", fontsize=9)

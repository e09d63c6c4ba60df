"""The picture of an audit: findings in two random views, and what larger crops save."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import PercentFormatter

from cxr_jax.augment import geometry, survival
from cxr_jax.augment.views import augment_view, view_geometry
from cxr_jax.config import Section
from cxr_jax.report.svg import COLOURS

_HELD, _LOST = COLOURS[5], COLOURS[1]  # both bright on a grey image


class Shown(NamedTuple):
    """An image or a view of it, grey, with the outline (y, x in its pixels) of one finding."""

    image: UInt8[np.ndarray, "s s"]
    outline: Float[np.ndarray, "corners 2"]
    caption: str
    held: bool


def examples(
    key: PRNGKeyArray,
    originals: UInt8[np.ndarray, "n s s 1"],
    boxes: Float[np.ndarray, "n 4"],
    names: Sequence[str],
    views: Mapping[str, Section],
    min_kept: float,
) -> list[list[Shown]]:
    """Returns a row for each image: itself, captioned with its name, then one of each view.

    Boxes are y0, x0, y1, x1 in fractions of the square image.
    """
    side, boxes = originals.shape[1], boxes.astype(np.float32)
    rows = [
        [Shown(image[..., 0], np.asarray(geometry.corners(box * side)), name, True)]
        for image, box, name in zip(originals, jnp.asarray(boxes), names)
    ]
    quickly = {"xla_backend_optimization_level": 0}  # it runs once: compiling is all its cost
    for view_key, (name, view) in zip(jax.random.split(key, len(views)), views.items()):
        make = jax.jit(partial(_make, view), compiler_options=quickly)
        images, outlines, kept, sizes = jax.device_get(make(view_key, originals, boxes))
        holds = survival.is_held(kept, min_kept)
        for place, row in enumerate(rows):
            caption = f"view {name}: keeps {100 * kept[place]:.0f} %, {sizes[place]:.0f} px"
            row.append(Shown(images[place], outlines[place], caption, bool(holds[place])))
    return rows


def _make(
    view: Section,
    key: PRNGKeyArray,
    originals: UInt8[Array, "n s s 1"],
    boxes: Float[Array, "n 4"],
) -> tuple[UInt8[Array, "n v v"], Float[Array, "n 4 2"], Float[Array, " n"], Float[Array, " n"]]:
    """Returns a view of each image as bytes, its finding's outline there, kept share and size."""
    (count, side), size = originals.shape[:2], view["size"]

    def follow(box, where):
        outline = geometry.follow(geometry.corners(box * side), where, side, side, size)
        return outline, *survival.survive(box, side, size, where)

    grey = augment_view(key, originals, view)[..., 0]
    images = jnp.round(255 * grey).astype(jnp.uint8)
    return images, *jax.vmap(follow)(boxes, view_geometry(key, count, side, side, view))


def draw(
    path: Path,
    rows: Sequence[Sequence[Shown]],
    minima: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    own_minima: Mapping[str, float],
    enough: float,
) -> None:
    """Writes a PNG: the `rows` of `examples`, and for each finding its curve.

    curves: finding -> share of the pairs that both hold it, at each of `minima` of crop_scale;
    the share `enough` is marked. own_minima: view name -> the config's minimum.
    """
    width, height = 2.3 * len(rows[0]), max(2.5 * len(rows), 5.0)
    figure = Figure(figsize=(width + 6, height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[width, 6])
    grid = left.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes, shown in zip(grid.flat, (one for row in rows for one in row)):
        size = shown.image.shape[1]
        # Pixel j covers [j, j + 1), as in the geometry of the views.
        axes.imshow(shown.image, cmap="gray", vmin=0, vmax=255, extent=(0, size, size, 0))
        colour, style = (_HELD, "-") if shown.held else (_LOST, "--")
        line = dict(fill=False, edgecolor=colour, linewidth=1.8, linestyle=style)
        axes.add_patch(Polygon(shown.outline[:, ::-1], **line))
        axes.set(xlim=(0, size), ylim=(size, 0))
        axes.set_title(shown.caption, fontsize=9)
        axes.axis("off")
    _curves(right.subplots(), minima, curves, own_minima, enough)
    figure.savefig(path, dpi=130)


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
        # 4 points beside the line, just above the axis.
        place = dict(xytext=(4, 2), xycoords=("data", "axes fraction"), textcoords="offset points")
        axes.annotate(f"config: {names}", (minimum, 0.01), **place, fontsize=9, color="#555555")
    axes.axhline(enough, color="#bbbbbb", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="smallest crop of both views (share of the image)")
    axes.set_ylabel("pairs of views that both hold the finding")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.legend(loc="lower right", frameon=True, edgecolor="none", fontsize=9)

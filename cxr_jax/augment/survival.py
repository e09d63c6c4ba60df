"""Finds how much two random views keep of a finding, from its box and the draws of both views.

kept   area of the box inside a view / area of the box. What the square that images are cut to
       (cxr_jax/data/images.py) leaves out counts as lost.
held   whether a view keeps at least `min_kept` of the box
size   square root of the part of the box inside a view, in pixels of that view

A rotated image repeats its edge outwards; that is no part of a box.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt32

from cxr_jax.augment import geometry
from cxr_jax.augment.views import view_geometry
from cxr_jax.config import Section

SMALL = 4  # pixels: a finding below it is smaller than one place of a ResNet's map after the stem
_AT_ONCE = 2**16  # draws in memory together
_ROUNDING = 1e-4  # of a kept share in float32

Boxes = Float[np.ndarray, "boxes 4"]
Keys = Key[Array, "n"] | UInt32[Array, "n words"]
Draws = Float[np.ndarray, "boxes draws views"]


class Survival(NamedTuple):
    """The part of each box that the views keep, draw by draw; the draws of the views are pairs."""

    kept: Draws
    size: Draws
    size_before: Float[np.ndarray, "boxes views"]  # on the whole square, scaled to the view


def measure(
    key: PRNGKeyArray,
    boxes: Boxes,
    views: Sequence[Section],
    image_size: int,
    num_draws: int,
    progress: Callable[[int], None] = lambda draws: None,
) -> Survival:
    """Draws `num_draws` pairs of views for each box.

    Boxes are y0, x0, y1, x1 in fractions of the square image of `image_size` pixels a side; they
    may reach beyond it. `progress` is called with the number of pairs drawn since the last call.
    """
    together = max(1, min(len(boxes), _AT_ONCE // num_draws))
    keys = jax.random.split(key, (len(boxes), len(views)))
    parts = []
    for start in range(0, len(boxes), together):
        # The last rows fill up with the last box, so that all have one shape.
        rows = np.minimum(np.arange(start, start + together), len(boxes) - 1)
        chosen, count = boxes[rows].astype(np.float32), min(together, len(boxes) - start)
        of_views = []
        for index, view in enumerate(views):
            areas = np.array(view["crop_scale"], np.float32)
            fields = _fields(view)
            of_views.append(_many(fields, image_size, num_draws, areas, keys[rows, index], chosen))
        of_views = jax.device_get(of_views)
        parts.append([np.stack(field, axis=-1)[:count] for field in zip(*of_views)])
        progress(count * num_draws)
    kept, size = (np.concatenate(field) for field in zip(*parts))
    return Survival(kept, size, sizes_before(boxes, [view["size"] for view in views]))


# Compiling takes seconds: areas are an argument and other fields that move no pixel are left out,
# so that one program mostly does for both views and for all smallest crops.
def _fields(view: Section) -> tuple[int, tuple[float, float], float, float]:
    low, high = view["crop_ratio"]
    return view["size"], (float(low), float(high)), float(view["flip"]), float(view["rotate"])


# Level 1 compiles in half the time of the default and runs no slower.
@partial(jax.jit, static_argnums=(0, 1, 2), compiler_options={"xla_backend_optimization_level": 1})
def _many(
    fields: tuple[int, tuple[float, float], float, float],
    image_size: int,
    num_draws: int,
    areas: Float[Array, "2"],
    keys: Keys,
    boxes: Float[Array, "n 4"],
) -> tuple[Float[Array, "n draws"], Float[Array, "n draws"]]:
    """Returns kept shares and sizes of boxes in views that `augment_view` draws from their keys."""
    size, ratio, flip, rotate = fields
    view = dict(crop_scale=tuple(areas), crop_ratio=ratio, flip=flip, rotate=rotate, blur_prob=0)

    def one(key, box):
        where = view_geometry(key, num_draws, image_size, image_size, view)
        return jax.vmap(partial(survive, box, image_size, size))(where)

    return jax.vmap(one)(keys, boxes)


def sizes_before(boxes: Boxes, view_sizes: Sequence[int]) -> Float[np.ndarray, "boxes views"]:
    """Returns the boxes' sizes on the whole square image scaled to each view's size."""
    y0, x0, y1, x1 = np.clip(boxes, 0, 1).T
    return np.sqrt((y1 - y0) * (x1 - x0))[:, None] * np.asarray(view_sizes)


def survive(
    box: Float[Array, "4"], image_size: int, size: int, where: geometry.Geometry
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the kept share and the size of a box in one view of size x size pixels.

    `box`: y0, x0, y1, x1 in fractions of the square image of `image_size` pixels.
    """
    outline = geometry.corners(jnp.clip(box, 0, 1) * image_size)
    in_view = geometry.follow(outline, where, image_size, image_size, size)
    seen = geometry.area_inside(in_view, size)
    y0, x0, y1, x1 = box * image_size
    scale = size**2 / (where.crop[2] * where.crop[3])
    return seen / ((y1 - y0) * (x1 - x0) * scale), jnp.sqrt(seen)


def is_held(kept: Float[np.ndarray, "*draws"], min_kept: float) -> Bool[np.ndarray, "*draws"]:
    """Tells whether views hold a finding of which they keep these shares."""
    return kept >= min_kept - _ROUNDING


def summarise(
    survival: Survival, groups: Mapping[str, Int[np.ndarray, " n"]], min_kept: float
) -> list[dict[str, Any]]:
    """Returns one row for each group of boxes, given by their positions; every box counts alike.

    Columns: finding, boxes, held_a, held_b, held_both (shares of the draws; both: the two views
    share the finding), size_before (median over boxes), size_after and share_small (median, and
    share below SMALL pixels, over the views that hold it; None if none does).
    """
    rows, every = [], is_held(survival.kept, min_kept)
    for name, members in groups.items():
        holds = every[members]
        sizes = survival.size[members][holds]
        row = {
            "held_a": holds[..., 0].mean(),
            "held_b": holds[..., 1].mean(),
            "held_both": holds.all(axis=-1).mean(),
            "size_before": np.median(survival.size_before[members]),
            "size_after": np.median(sizes) if len(sizes) else None,
            "share_small": (sizes < SMALL).mean() if len(sizes) else None,
        }
        numbers = {key: value if value is None else float(value) for key, value in row.items()}
        rows.append({"finding": name, "boxes": len(members), **numbers})
    return rows


def groups(labels: Sequence[str], boxes: Boxes) -> dict[str, Int[np.ndarray, " n"]]:
    """Returns the boxes of each label, then all, then the quarter that is smallest on the image.

    >>> boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.1, 0.2]])
    >>> [f"{name}: {rows}" for name, rows in groups(["mass", "edema"], boxes).items()]
    ['edema: [1]', 'mass: [0]', 'all: [0 1]', 'smallest quarter of all: [1]']
    """
    names = np.asarray(labels)
    found = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    order = np.argsort(sizes_before(boxes, [1])[:, 0], kind="stable")
    smallest = order[: max(1, len(order) // 4)]
    return {**found, "all": np.arange(len(boxes)), "smallest quarter of all": smallest}

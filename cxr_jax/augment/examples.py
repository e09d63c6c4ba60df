"""Images with a finding and two views of them, the finding outlined, for the audit's picture."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from cxr_jax.augment import geometry, survival
from cxr_jax.augment.views import augment_view, view_geometry
from cxr_jax.config import Section
from cxr_jax.report.survival import Shown


def examples(
    key: PRNGKeyArray,
    originals: UInt8[np.ndarray, "n s s 1"],
    boxes: Float[np.ndarray, "n 4"],
    names: list[str],
    views: Mapping[str, Section],
    min_kept: float,
) -> list[list[Shown]]:
    """For each image a row: the image, then one random view for each of `views`.

    Args:
      boxes: y0, x0, y1, x1 in fractions of the square image.
      names: captions of the images.
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
    """A view of each image as bytes, its finding's outline there, kept share and size."""
    (count, side), size = originals.shape[:2], view["size"]

    def follow(
        box: Float[Array, "4"], where: geometry.Geometry
    ) -> tuple[Float[Array, "4 2"], Float[Array, ""], Float[Array, ""]]:
        outline = geometry.follow(geometry.corners(box * side), where, side, side, size)
        return outline, *survival.survive(box, side, size, where)

    grey = augment_view(key, originals, view)[..., 0]
    images = jnp.round(255 * grey).astype(jnp.uint8)
    return images, *jax.vmap(follow)(boxes, view_geometry(key, count, side, side, view))

"""The geometry of a view on its image: drawn at random, and followed by points and boxes.

`augment_view` draws its geometry here, and the audit follows boxes through the very same draws.
Positions are (y, x) in pixels, pixel j covering [j, j + 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cxr_jax.augment import ops
from cxr_jax.config import Section


class Geometry(NamedTuple):
    """The changes of an image, in this order; fields of many images have an axis in front."""

    degrees: Float[Array, "*images"]  # rotation about the image's centre, counter-clockwise
    crop: Float[Array, "*images 4"]  # top, left, height, width in pixels of the rotated image
    flip: Bool[Array, "*images"]  # whether the view is mirrored
    blur: Float[Array, "*images"]  # standard deviation in pixels of the view; 0 is none


def draw(key: PRNGKeyArray, height: int, width: int, view: Section) -> Geometry:
    """Draws the geometry of one view of an image of height x width pixels."""
    crop_key, flip_key, rotate_key, blur_key, sigma_key = jax.random.split(key, 5)
    # Branches on `view` are Python's: what a config switches off is not drawn.
    degrees = blur = jnp.zeros(())
    if view["rotate"] > 0:
        degrees = jax.random.uniform(rotate_key, minval=-view["rotate"], maxval=view["rotate"])
    crop = ops.crop_box(
        crop_key, height, width, tuple(view["crop_scale"]), tuple(view["crop_ratio"])
    )
    flip = jax.random.bernoulli(flip_key, view["flip"])
    if view["blur_prob"] > 0:
        low, high = view["blur_sigma"]
        sigma = jax.random.uniform(sigma_key, minval=low, maxval=high)
        blur = sigma * jax.random.bernoulli(blur_key, view["blur_prob"])
    return Geometry(degrees, crop, flip, blur)


def follow(
    points: Float[Array, "n 2"], geometry: Geometry, height: int, width: int, size: int
) -> Float[Array, "n 2"]:
    """Returns where points (y, x) of an image are in its view of size x size pixels, or outside."""
    angle = jnp.deg2rad(geometry.degrees)
    middle = jnp.array([height / 2, width / 2])
    y, x = (points - middle).T
    # The inverse of ops.rotate, which says where the pixels of the rotated image come from.
    turned = jnp.stack(
        [jnp.cos(angle) * y - jnp.sin(angle) * x, jnp.sin(angle) * y + jnp.cos(angle) * x], axis=-1
    )
    start, length = geometry.crop[:2], geometry.crop[2:]
    y, x = ((turned + middle - start) * size / length).T
    return jnp.stack([y, jnp.where(geometry.flip, size - x, x)], axis=-1)


def corners(box: Float[Array, "4"]) -> Float[Array, "4 2"]:
    """Returns the corners (y, x) of a box (y0, x0, y1, x1), clockwise from the top left."""
    y0, x0, y1, x1 = box
    return jnp.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]])


def area_inside(polygon: Float[Array, "n 2"], size: int) -> Float[Array, ""]:
    """Returns the exact area of a polygon's part inside [0, size) x [0, size).

    >>> area_inside(corners(jnp.array([-1.0, 1.0, 2.0, 3.0])), 4).round(3).item()
    4.0

    Moving every point of the outline to the nearest one of the square leaves unchanged how often
    it winds round a point inside (none crosses it on its way), and so the area there. Each side
    then consists of up to five straight pieces; Green's theorem adds up the area left of them.
    """
    start, end = polygon, jnp.roll(polygon, -1, axis=0)
    change = end - start
    # When a side (time 0 to 1) enters and leaves each strip; one along the strip never does.
    safe = jnp.where(change == 0, 1, change)
    borders = jnp.stack([-start / safe, (size - start) / safe])
    borders = jnp.where(change == 0, 0.0, jnp.clip(borders, 0, 1))
    enters, leaves = borders.min(axis=0), borders.max(axis=0)
    # Outside the rows' strip the moved point keeps its y and adds nothing.
    times = jnp.stack([enters[:, 0], enters[:, 1], leaves[:, 1], leaves[:, 0]])
    times = jnp.clip(times, enters[:, 0], leaves[:, 0])
    x = jnp.clip(start[:, 1] + change[:, 1] * times, 0, size)
    left = ((x[1:] + x[:-1]) / 2 * (times[1:] - times[:-1])).sum(axis=0)
    return jnp.abs(jnp.sum(left * change[:, 0]))

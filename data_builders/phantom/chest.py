"""The shapes of a chest on the grid of one image."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from data_builders.phantom.anatomy import Anatomy

Map = Float[np.ndarray, "h w"]

# Below this height the cage no longer widens.
WIDEST_Y = 0.55


class Chest(NamedTuple):
    """Shapes of one chest on the grid of one image; masks in [0, 1] with edges one pixel soft."""

    x: Map  # body coordinates
    y: Map
    pixel: float  # body units per pixel
    wall: Map  # distance to the inner wall of the cage, positive inside
    across: Map  # 0 at the medial border of a lung, 1 at the lateral one
    dome: Map  # height of the diaphragm at this x
    lung: Map  # as if there were no heart in front of it
    heart: Map
    mediastinum: Map
    depth: Map  # thickness of the lung along the beam, at most 1


def edge(distance: Map, width: float) -> Map:
    """Step from 0 (distance < 0) to 1, linear over `width`."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def bump(t: Map) -> Map:
    """Smooth bump of height 1 over |t| < 1."""
    rest = np.maximum(1 - t * t, 0)
    return rest * rest


def disc(chest: Chest, x: float, y: float, radius_x: float, radius_y: float) -> Map:
    """Squared distance from (x, y) in radii: below 1 inside the ellipse."""
    dx = (chest.x - np.float32(x)) / np.float32(radius_x)
    dy = (chest.y - np.float32(y)) / np.float32(radius_y)
    return dx * dx + dy * dy


def interpolate(grid: Float[np.ndarray, "n n"], column: Map, row: Map) -> Map:
    """Bilinear values of a small square grid at fractional places, clamped at its border."""
    last = grid.shape[0] - 1
    column, row = np.clip(column, 0, last - 1e-3), np.clip(row, 0, last - 1e-3)
    left, top = column.astype(np.intp), row.astype(np.intp)
    u, v = column - left, row - top
    corner, flat = top * (last + 1) + left, grid.reshape(-1)
    upper = flat[corner] * (1 - u) + flat[corner + 1] * u
    lower = flat[corner + last + 1] * (1 - u) + flat[corner + last + 2] * u
    return (upper * (1 - v) + lower * v).astype(np.float32)


def heart_widths(anatomy: Anatomy, heart_scale: float) -> tuple[float, float]:
    """Greatest distance of the heart's right and of its left border from the midline."""
    width = 2 * anatomy.cage_width * anatomy.cardiothoracic_ratio * heart_scale
    return (1 - anatomy.heart_left_share) * width, anatomy.heart_left_share * width


def lung_borders(anatomy: Anatomy, y: Map) -> tuple[Map, Map]:
    """Distance of the lungs' medial and lateral borders from the midline at height y."""
    above = np.clip((WIDEST_Y - y) / np.float32(WIDEST_Y - anatomy.apex_y), 0, 1)
    narrow = np.sqrt(1 - above * above)
    lateral = anatomy.apex_x + (anatomy.cage_width - anatomy.apex_x) * narrow
    medial = anatomy.apex_x - (anatomy.apex_x - 0.13) * np.sqrt(narrow)
    return medial, lateral


def lay_out(
    anatomy: Anatomy, x: Map, y: Map, pixel: float, breath: float, heart_scale: float
) -> Chest:
    """Lays the anatomy out on an image's grid.

    Args:
      x, y: body coordinates of every pixel.
      pixel: body units per pixel.
      breath: how far the diaphragm stands above its place in full inspiration.
      heart_scale: width of the heart against a PA image (magnification, expiration).
    """
    side = np.abs(x)
    medial, lateral = lung_borders(anatomy, y)
    wall = lateral - side
    across = np.clip((side - medial) / np.maximum(lateral - medial, 1e-3), 0, 1)
    dome = _diaphragm(anatomy, x, breath)
    lung = edge(wall, pixel) * edge(side - medial, pixel) * edge(dome - y, pixel)
    lung = lung * (y > anatomy.apex_y)
    medial_thinning = 1 - 0.5 * (1 - np.clip(3 * across, 0, 1)) ** 2
    lateral_thinning = 1 - 0.65 * (1 - np.clip(2.5 * (1 - across), 0, 1)) ** 2
    depth = lung * medial_thinning * lateral_thinning
    heart = _heart(anatomy, x, y, pixel, heart_scale)
    return Chest(
        x, y, pixel, wall, across, dome, lung, heart, _mediastinum(anatomy, x, y, pixel), depth
    )


def _diaphragm(anatomy: Anatomy, x: Map, breath: float) -> Map:
    right, left = anatomy.domes
    outward = np.abs(x) / np.float32(anatomy.cage_width) - np.float32(0.42)
    top = np.where(x < 0, np.float32(right), np.float32(left)) - np.float32(breath)
    steep = outward * np.maximum(outward, 0)
    return top + np.float32(anatomy.dome_drop / 0.33) * steep + np.float32(0.25) * outward * outward


def _heart(anatomy: Anatomy, x: Map, y: Map, pixel: float, heart_scale: float) -> Map:
    right, left = heart_widths(anatomy, heart_scale)
    # Both borders narrow upwards to the great vessels: on the left past the pulmonary trunk, on
    # the right past the atrium into the superior vena cava.
    vessels = anatomy.mediastinum + 0.02
    left_edge = _border(y - np.float32(anatomy.heart_y), left, min(vessels, left), 0.78)
    right_edge = _border(y - np.float32(anatomy.heart_y - 0.12), right, min(vessels, right), 0.5)
    heart = edge(left_edge - x, 1.5 * pixel) * edge(x + right_edge, 1.5 * pixel)
    heart = heart * edge(y - np.float32(anatomy.heart_y - 0.85), 0.3)
    return heart * edge(np.float32(anatomy.heart_y + 0.62) - y, 0.1)


def _border(below: Map, widest: float, narrow: float, height: float) -> Map:
    """Distance of a heart border from the midline, `below` measured from its widest place."""
    up = np.clip(1 + below / np.float32(height), 0, 1)
    down = np.clip(below / np.float32(0.6), 0, 1)
    width = np.float32(narrow) + np.float32(widest - narrow) * up * up * (3 - 2 * up)
    return width - np.float32(0.7 * widest) * down * down


def _mediastinum(anatomy: Anatomy, x: Map, y: Map, pixel: float) -> Map:
    widening = np.float32(0.05) * np.clip(-y - np.float32(0.3), 0, 1)
    band = np.float32(anatomy.mediastinum) + widening - np.abs(x)
    knob_x = x - np.float32(anatomy.mediastinum - 0.06)
    knob_y = y + np.float32(0.52)
    knob = np.float32(anatomy.knob) - np.sqrt(knob_x * knob_x + knob_y * knob_y)
    return np.maximum(edge(band, 2 * pixel), edge(knob, 1.5 * pixel))

"""The anatomy of a drawn patient, and its shapes on the grid of one image.

Body coordinates: x to the right of the image (the patient's left), y down, origin between the hila.
The half-width of the inner thoracic cage is about 1, so one unit is about 14 cm.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Map = Float[np.ndarray, "h w"]

HILUM_X, HILUM_Y = 0.2, 0.02
WIDEST_Y = 0.55  # below this height the cage no longer widens
RIBS = 16
# Count, points, length and cross-section of the branches of three generations of vessels.
_GENERATIONS = ((8, 40, 0.85, 0.03), (26, 24, 0.45, 0.017), (60, 14, 0.25, 0.01))


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Anatomy that all images of a patient share, in body units; the trunk's density is 1."""

    sex: str
    age: int
    cage_width: float  # half-width of the inner thoracic cage at its widest
    apex_y: float  # top of the lungs (negative: above the hila)
    apex_x: float  # distance of the apices from the midline
    domes: tuple[float, float]  # height of the right and left diaphragm dome
    dome_drop: float  # from the domes down to the costophrenic angles
    cardiothoracic_ratio: float  # on a PA image
    heart_left_share: float  # part of the heart's width to the left of the midline
    heart_y: float  # height of the heart's widest place
    mediastinum: float  # half-width at the level of the hila
    knob: float  # radius of the aortic knob
    spine_bend: float
    trachea_shift: float
    rib_spacing: float
    rib_slope: float
    rib_density: float
    rib_jitter: tuple[float, ...]  # fractions of the spacing
    clavicle_slope: float
    fat: float  # thickness of the soft tissue outside the cage
    shoulder_slope: float
    breast: float  # size, 0 without
    breast_y: float
    stomach_x: float
    stomach_y: float  # below the left dome
    stomach_gas: float  # radius of the bubble
    vessel_density: float
    detail_seed: int  # of the vessels and of the texture of soft tissue


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draws a patient; every difference between patients comes from `rng`."""
    female = bool(rng.random() < 0.5)
    age = int(rng.integers(18, 90))
    # Older hearts are larger and older aortas wider.
    ratio = 0.43 + 0.0008 * (age - 50) + 0.065 * rng.standard_normal()
    right_dome = rng.uniform(0.55, 0.8)
    return Anatomy(
        sex="F" if female else "M",
        age=age,
        cage_width=rng.uniform(0.92, 1.08) - 0.04 * female,
        apex_y=rng.uniform(-1.25, -0.98),
        apex_x=rng.uniform(0.36, 0.46),
        domes=(right_dome, right_dome + rng.uniform(-0.02, 0.12)),
        dome_drop=rng.uniform(0.16, 0.36),
        cardiothoracic_ratio=float(np.clip(ratio, 0.33, 0.68)),
        heart_left_share=rng.uniform(0.62, 0.74),
        heart_y=rng.uniform(0.4, 0.52),
        mediastinum=rng.uniform(0.14, 0.21),
        knob=rng.uniform(0.1, 0.16) + 0.0008 * age,
        spine_bend=rng.normal(0, 0.035),
        trachea_shift=rng.normal(0, 0.02),
        rib_spacing=rng.uniform(0.19, 0.245),
        rib_slope=rng.uniform(0.1, 0.42),
        rib_density=rng.uniform(0.08, 0.17) - 0.0004 * (age - 50),
        rib_jitter=tuple(rng.normal(0, 0.07, RIBS).tolist()),
        clavicle_slope=rng.uniform(-0.05, 0.35),
        fat=rng.gamma(3.0, 0.06) + 0.08,
        shoulder_slope=rng.uniform(0.3, 0.75),
        breast=rng.uniform(0.25, 1.0) if female else 0.0,
        breast_y=rng.uniform(0.35, 0.65),
        stomach_x=rng.uniform(0.35, 0.65),
        stomach_y=rng.uniform(0.12, 0.22),
        stomach_gas=rng.uniform(0.0, 0.2),
        vessel_density=rng.uniform(0.7, 1.35),
        detail_seed=int(rng.integers(2**31)),
    )


def vessels(anatomy: Anatomy) -> Float[np.ndarray, "points 3"]:
    """Returns points (x, y, mass) along the vessels of both lungs."""
    rng = np.random.default_rng([anatomy.detail_seed, 1])
    return np.concatenate([_vessel_tree(rng, side) for side in (-1, 1)])


def texture(anatomy: Anatomy) -> Float[np.ndarray, "16 16"]:
    """Returns the coarse unevenness of the soft tissue, standard normal."""
    return np.random.default_rng([anatomy.detail_seed, 2]).standard_normal((16, 16), np.float32)


def _vessel_tree(rng: np.random.Generator, side: int) -> Float[np.ndarray, "points 3"]:
    """Grows three generations of branches that fan out of one hilum."""
    points, parents, parent_angles = [], np.zeros((0, 2)), np.zeros(0)
    for count, steps, length, width in _GENERATIONS:
        if len(parents) == 0:
            start = np.array([HILUM_X, HILUM_Y]) + rng.normal(0, 0.03, (count, 2))
            angle = np.linspace(-1.35, 1.5, count) + rng.normal(0, 0.12, count)
        else:
            chosen = rng.integers(0, len(parents), count)
            start = parents[chosen]
            turn = rng.choice([-1.0, 1.0], count) * rng.uniform(0.3, 0.8, count)
            angle = parent_angles[chosen] + turn
        reach = length * rng.uniform(0.6, 1.1, count)
        bend = rng.normal(0, 0.5, count)
        along = np.linspace(0, 1, steps)
        direction = angle[:, None] + bend[:, None] * along
        step = (reach / steps)[:, None]
        x = start[:, :1] + np.cumsum(np.cos(direction) * step, axis=1)
        y = start[:, 1:] + np.cumsum(np.sin(direction) * step, axis=1)
        mass = width * (1 - 0.7 * along) * step
        points.append(np.stack([side * x, y, mass], axis=-1).reshape(-1, 3))
        first = steps // 6  # nothing branches off inside the hilum
        parents = np.stack([x, y], axis=-1)[:, first:].reshape(-1, 2)
        parent_angles = direction[:, first:].reshape(-1)
    return np.concatenate(points)


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
    """Returns a step from 0 (distance < 0) to 1, linear over `width`."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def bump(t: Map) -> Map:
    """Returns a smooth bump of height 1 over |t| < 1."""
    rest = np.maximum(1 - t * t, 0)
    return rest * rest


def disc(chest: Chest, x: float, y: float, radius_x: float, radius_y: float) -> Map:
    """Returns the squared distance from (x, y) in radii: below 1 inside the ellipse."""
    dx = (chest.x - np.float32(x)) / np.float32(radius_x)
    dy = (chest.y - np.float32(y)) / np.float32(radius_y)
    return dx * dx + dy * dy


def half(chest: Chest, side: int) -> Map:
    """Returns 1 on one side of the midline, 0 on the other."""
    return (chest.x * side > 0).astype(np.float32)


def interpolate(grid: Float[np.ndarray, "n n"], column: Map, row: Map) -> Map:
    """Interpolates a small square grid bilinearly at fractional places, clamped at its border."""
    last = grid.shape[0] - 1
    column, row = np.clip(column, 0, last - 1e-3), np.clip(row, 0, last - 1e-3)
    left, top = column.astype(np.intp), row.astype(np.intp)
    u, v = column - left, row - top
    corner, flat = top * (last + 1) + left, grid.reshape(-1)
    upper = flat[corner] * (1 - u) + flat[corner + 1] * u
    lower = flat[corner + last + 1] * (1 - u) + flat[corner + last + 2] * u
    return (upper * (1 - v) + lower * v).astype(np.float32)


def heart_widths(anatomy: Anatomy, heart_scale: float) -> tuple[float, float]:
    """Returns the greatest distance of the heart's right and left borders from the midline."""
    width = 2 * anatomy.cage_width * anatomy.cardiothoracic_ratio * heart_scale
    return (1 - anatomy.heart_left_share) * width, anatomy.heart_left_share * width


def lung_borders(anatomy: Anatomy, y: Map) -> tuple[Map, Map]:
    """Returns how far the lungs' medial and lateral borders are from the midline at height y."""
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
      breath: how far the diaphragm is above its place in full inspiration.
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
    """Returns the distance of a heart border from the midline; `below` counts from its widest."""
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

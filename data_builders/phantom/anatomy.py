"""One patient's chest: the parameters of the anatomy and its shapes in body coordinates.

Body coordinates: x to the right of the film (the patient's left), y down, origin between the hila.
The half-width of the inner thoracic cage is about 1, so one unit is about 14 cm.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Map = Float[np.ndarray, "h w"]

# Below this height the cage no longer widens; the heart's transverse diameter is read there too.
WIDEST_Y = 0.55
HILUM = (0.2, 0.02)


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What all films of one patient share. Lengths in body units."""

    sex: str
    age: int
    cage_width: float  # half-width of the inner thoracic cage at its widest
    apex_y: float  # top of the lungs (negative: above the hila)
    apex_x: float  # distance of the apices from the midline
    dome: tuple[float, float]  # height of the right and left diaphragm dome
    dome_drop: float  # from the dome down to the costophrenic angle
    cardiothoracic_ratio: float  # on a PA film in full inspiration
    heart_left_share: float  # part of the heart's width to the left of the midline
    heart_y: float  # height of the heart's widest place
    mediastinum: float  # half-width at the level of the clavicles
    knob: float  # radius of the aortic knob
    spine_bend: float
    trachea_shift: float
    rib_spacing: float
    rib_slope: float
    rib_density: float
    rib_jitter: Float[np.ndarray, "ribs"]
    clavicle_slope: float
    fat: float  # thickness of the soft tissue outside the cage
    shoulder_slope: float
    breast: float  # 0 without, up to 1
    breast_y: float
    stomach: tuple[float, float, float]  # x, y below the dome, radius of the gas bubble
    vessel_density: float
    texture: Float[np.ndarray, "16 16"]  # interstitium and soft tissue, coarse
    vessels: Float[np.ndarray, "points 3"]  # x, y, cross-section x length


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draws a patient; every difference between patients comes from `rng`."""
    female = rng.random() < 0.5
    age = int(rng.integers(18, 90))
    # Older hearts are larger and older aortas wider, as in practice.
    ratio = 0.43 + 0.0008 * (age - 50) + 0.065 * rng.standard_normal()
    right_dome = rng.uniform(0.55, 0.8)
    return Anatomy(
        sex="F" if female else "M",
        age=age,
        cage_width=rng.uniform(0.92, 1.08) - 0.04 * female,
        apex_y=rng.uniform(-1.25, -0.98),
        apex_x=rng.uniform(0.36, 0.46),
        dome=(right_dome, right_dome + rng.uniform(-0.02, 0.12)),
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
        rib_jitter=rng.normal(0, 0.07, 16),
        clavicle_slope=rng.uniform(-0.05, 0.35),
        fat=rng.gamma(3.0, 0.06) + 0.08,
        shoulder_slope=rng.uniform(0.3, 0.75),
        breast=rng.uniform(0.25, 1.0) if female else 0.0,
        breast_y=rng.uniform(0.35, 0.65),
        stomach=(rng.uniform(0.35, 0.65), rng.uniform(0.12, 0.22), rng.uniform(0.0, 0.2)),
        vessel_density=rng.uniform(0.7, 1.35),
        texture=rng.standard_normal((16, 16)).astype(np.float32),
        vessels=np.concatenate([_vessel_tree(rng, side) for side in (-1, 1)]),
    )


def _vessel_tree(rng: np.random.Generator, side: int) -> Float[np.ndarray, "points 3"]:
    """Points along three generations of branches that fan out of one hilum."""
    origin = np.array([HILUM])
    points, parents, parent_angles = [], origin, None
    for count, steps, length, width in ((8, 40, 0.85, 0.03), (26, 24, 0.45, 0.017), (60, 14, 0.25, 0.01)):
        if parent_angles is None:
            start = np.repeat(origin, count, axis=0) + rng.normal(0, 0.03, (count, 2))
            angle = np.linspace(-1.35, 1.5, count) + rng.normal(0, 0.12, count)
        else:
            chosen = rng.integers(0, len(parents), count)
            start, sign = parents[chosen], rng.choice([-1.0, 1.0], count)
            angle = parent_angles[chosen] + sign * rng.uniform(0.3, 0.8, count)
        reach = length * rng.uniform(0.6, 1.1, count)
        bend = rng.normal(0, 0.5, count)
        along = np.linspace(0, 1, steps)
        direction = angle[:, None] + bend[:, None] * along
        step = (reach / steps)[:, None]
        x = start[:, :1] + np.cumsum(np.cos(direction) * step, axis=1)
        y = start[:, 1:] + np.cumsum(np.sin(direction) * step, axis=1)
        mass = width * (1 - 0.7 * along) * step
        points.append(np.stack([side * x, y, mass], axis=-1).reshape(-1, 3))
        late = steps // 6  # children leave the outer part of a branch
        parents = np.stack([x, y], axis=-1)[:, late:].reshape(-1, 2)
        parent_angles = direction[:, late:].reshape(-1)
    return np.concatenate(points)


class Chest(NamedTuple):
    """Shapes of one chest on the grid of one film; masks in [0, 1] with edges one pixel soft."""

    x: Map
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


def interpolate(grid: Map, u: Map, v: Map) -> Map:
    """Values of a small square grid at fractional columns u and rows v, clamped at its border."""
    last = grid.shape[0] - 1
    u, v = np.clip(u, 0, last - 1e-3), np.clip(v, 0, last - 1e-3)
    column, row = u.astype(np.intp), v.astype(np.intp)
    fu, fv = u - column, v - row
    corner, flat = row * (last + 1) + column, grid.reshape(-1)
    top = flat[corner] * (1 - fu) + flat[corner + 1] * fu
    bottom = flat[corner + last + 1] * (1 - fu) + flat[corner + last + 2] * fu
    return (top * (1 - fv) + bottom * fv).astype(np.float32)


def heart_widths(anatomy: Anatomy, heart_scale: float) -> tuple[float, float]:
    """Greatest distance of the heart's right and left border from the midline."""
    width = 2 * anatomy.cage_width * anatomy.cardiothoracic_ratio * heart_scale
    return (1 - anatomy.heart_left_share) * width, anatomy.heart_left_share * width


def lung_borders(anatomy: Anatomy, y):
    """Distance of the medial and lateral border of the lungs from the midline at height y."""
    above = np.clip((WIDEST_Y - y) / np.float32(WIDEST_Y - anatomy.apex_y), 0, 1)
    narrow = np.sqrt(1 - above * above)
    lateral = anatomy.apex_x + (anatomy.cage_width - anatomy.apex_x) * narrow
    return anatomy.apex_x - (anatomy.apex_x - 0.13) * np.sqrt(narrow), lateral


def lay_out(anatomy: Anatomy, x: Map, y: Map, pixel: float, breath: float, heart_scale: float):
    """Lays the anatomy out on a film's grid.

    Args:
      x, y: body coordinates of every pixel.
      pixel: body units per pixel.
      breath: how far the diaphragm stands above its place in full inspiration.
      heart_scale: width of the heart against a PA film (magnification, expiration).
    """
    side = np.abs(x)
    medial, lateral = lung_borders(anatomy, y)
    wall = lateral - side
    across = np.clip((side - medial) / np.maximum(lateral - medial, 1e-3), 0, 1)
    right, left = anatomy.dome
    outward = side / np.float32(anatomy.cage_width) - np.float32(0.42)
    dome = np.where(x < 0, np.float32(right), np.float32(left)) - np.float32(breath)
    dome = dome + np.float32(anatomy.dome_drop / 0.33) * outward * np.abs(outward) * (outward > 0)
    dome = dome + np.float32(0.25) * outward * outward
    open_top = (y > anatomy.apex_y).astype(np.float32)
    lung = edge(wall, pixel) * edge(side - medial, pixel) * edge(dome - y, pixel) * open_top
    inner = np.clip(across * 3, 0, 1)
    outer = np.clip((1 - across) * 2.5, 0, 1)
    depth = lung * (1 - (1 - inner) ** 2 * 0.5) * (0.35 + 0.65 * (1 - (1 - outer) ** 2))

    heart_right, heart_left = heart_widths(anatomy, heart_scale)
    # Both borders narrow upwards to the great vessels: on the left past the pulmonary trunk, on the
    # right past the atrium into the superior vena cava.
    vessels_width = np.float32(anatomy.mediastinum + 0.02)
    left_edge = _border(y - np.float32(anatomy.heart_y), heart_left, vessels_width, 0.78)
    right_edge = _border(y - np.float32(anatomy.heart_y - 0.12), heart_right, vessels_width, 0.5)
    heart = edge(left_edge - x, 1.5 * pixel) * edge(x + right_edge, 1.5 * pixel)
    heart = heart * edge(y - np.float32(anatomy.heart_y - 0.85), 0.3)
    heart = heart * edge(np.float32(anatomy.heart_y + 0.62) - y, 0.1)

    widening = np.float32(0.05) * np.clip(-y - np.float32(0.3), 0, 1)
    band = np.float32(anatomy.mediastinum) + widening - side
    knob_x = x - np.float32(anatomy.mediastinum - 0.06)
    knob_y = y + np.float32(0.52)
    knob = np.float32(anatomy.knob) - np.sqrt(knob_x * knob_x + knob_y * knob_y)
    mediastinum = np.maximum(edge(band, 2 * pixel), edge(knob, 1.5 * pixel))
    return Chest(x, y, pixel, wall, across, dome, lung, heart, mediastinum, depth)


def _border(below: Map, widest: float, narrow: float, height: float) -> Map:
    """Distance of a heart border from the midline, `below` measured from its widest place."""
    up = np.clip(1 + below / np.float32(height), 0, 1)
    down = np.clip(below / np.float32(0.6), 0, 1)
    return narrow + (widest - narrow) * up * up * (3 - 2 * up) - widest * 0.7 * down * down

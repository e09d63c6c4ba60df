"""One patient: the parameters of the anatomy, in body coordinates.

Body coordinates: x to the right of the image (the patient's left), y down, origin between the hila.
The half-width of the inner thoracic cage is about 1, so one unit is about 14 cm.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

HILUM_X, HILUM_Y = 0.2, 0.02
RIBS = 16
# Count, points, length and cross-section of the branches of three generations of vessels.
_GENERATIONS = ((8, 40, 0.85, 0.03), (26, 24, 0.45, 0.017), (60, 14, 0.25, 0.01))


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What all images of one patient share. Lengths in body units; the trunk's density is 1."""

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
    """Points (x, y, mass) along the vessels of both lungs."""
    rng = np.random.default_rng([anatomy.detail_seed, 1])
    return np.concatenate([_vessel_tree(rng, side) for side in (-1, 1)])


def texture(anatomy: Anatomy) -> Float[np.ndarray, "16 16"]:
    """Coarse unevenness of the soft tissue, standard normal."""
    return np.random.default_rng([anatomy.detail_seed, 2]).standard_normal((16, 16), np.float32)


def _vessel_tree(rng: np.random.Generator, side: int) -> Float[np.ndarray, "points 3"]:
    """Three generations of branches that fan out of one hilum."""
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

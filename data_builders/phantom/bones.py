"""Projected density of ribs, spine, clavicles and shoulder blades; the trunk is about 1."""

import numpy as np
from jaxtyping import Float

from data_builders.phantom.anatomy import RIBS, Anatomy
from data_builders.phantom.chest import Chest, Map, bump, edge


def bones(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    """Density of all bones."""
    return _ribs(anatomy, chest) + _spine(anatomy, chest) + _shoulder(anatomy, chest, arms_down)


def _ribs(anatomy: Anatomy, chest: Chest) -> Map:
    side = np.abs(chest.x)
    t = np.clip(side / np.maximum(chest.wall + side, 1e-3), 0, 1)  # 0 midline, 1 wall
    t4 = t * t * t * t
    spacing = np.float32(anatomy.rib_spacing)
    # Seen from the front, a rib's dorsal part arches out of the spine and falls towards the wall;
    # its ventral part runs on from there down to the cartilage.
    dorsal = np.float32(anatomy.rib_slope) * t * t + 0.35 * t4 * t4 - 0.12 * bump(2 * t - 0.8)
    ventral = 0.75 * (1 - t) * (1 + 0.4 * (1 - t)) + 0.25 * (1 - t4)
    below_apex = chest.y - np.float32(anatomy.apex_y)
    behind = (below_apex + 0.05 - dorsal) / spacing
    front = (below_apex - 0.13 - ventral) / (spacing * 1.12)
    jitter = np.asarray(anatomy.rib_jitter, np.float32)
    tangential = 1 + 0.6 * t4  # the beam runs along the rib near the wall
    dorsal_bars = _bars(behind, jitter, 10.5, 0.3) * edge(side - 0.12, 0.06) * tangential
    cartilage = edge(side - np.float32(0.42 * anatomy.cage_width), 0.25)
    ventral_bars = _bars(front, jitter[::-1], 6.5, 0.34) * cartilage
    cage = edge(chest.wall + 0.02, 0.05) * edge(below_apex + 0.02, 0.08)
    faint_below = 1 - 0.5 * edge(chest.y - chest.dome, 0.1)
    density = np.float32(anatomy.rib_density) * cage * faint_below
    return density * (dorsal_bars + 0.7 * ventral_bars)


def _bars(phase: Map, jitter: Float[np.ndarray, "ribs"], last: float, half_width: float) -> Map:
    """Bars of height 1 at whole phases from 0 to `last`, brighter at both rims (the cortex)."""
    nearest = np.rint(phase)
    index = np.clip(nearest, 0, RIBS - 1).astype(np.intp)
    offset = np.abs(phase - nearest - jitter[index]) / np.float32(half_width)
    bar = 0.8 * edge(1 - offset, 0.5) + 0.45 * bump(3.5 * (offset - 0.8))
    return bar * (phase > -0.5) * (phase < last)


def _spine(anatomy: Anatomy, chest: Chest) -> Map:
    x = chest.x - np.float32(anatomy.spine_bend) * (1 - chest.y * chest.y)
    phase = chest.y / np.float32(0.19)
    phase = phase - np.floor(phase) - 0.5
    gap = bump(4 * phase)
    body = edge(0.11 + 0.02 * chest.y - np.abs(x) + 0.03 * gap, 0.03)
    pedicle = bump(30 * (np.abs(x) - 0.07)) * bump(5 * (phase - 0.25))
    spinous = bump(30 * x) * bump(4 * (phase + 0.2))
    return body * (0.14 - 0.05 * gap) + 0.06 * pedicle + 0.05 * spinous


def _shoulder(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    side = np.abs(chest.x)
    s = side - 0.12
    middle = np.float32(anatomy.apex_y + 0.28) - np.float32(anatomy.clavicle_slope) * s
    offset = np.abs(chest.y - middle - 0.1 * bump(2.2 * (s - 0.25))) / np.float32(0.055)
    clavicle = 0.7 * edge(1 - offset, 0.4) + 0.35 * bump(3 * (offset - 0.8))
    clavicle = clavicle * edge(s, 0.05) * edge(1.05 - side, 0.1)
    # Raised or forward-turned arms draw the shoulder blades out of the lungs.
    blade_x = np.float32(anatomy.cage_width * (0.84 if arms_down else 1.0))
    inside = side - blade_x + 0.22 * (chest.y + 0.3)
    blade = edge(inside, 0.03) * edge(chest.y + 0.95, 0.1) * edge(-chest.y - 0.05 - inside / 2, 0.1)
    border = bump(22 * inside) * blade
    dx, dy = side - np.float32(1.28), chest.y - np.float32(anatomy.apex_y + 0.22)
    arm = edge(0.17 - np.sqrt(dx * dx + dy * dy), 0.05)
    if arms_down:
        shaft = np.abs(side - 1.36 - 0.12 * (chest.y + 0.9))
        arm = np.maximum(arm, edge(0.09 - shaft, 0.03) * edge(chest.y + 0.9, 0.05))
    return np.float32(1.6 * anatomy.rib_density) * clavicle + 0.05 * (blade + border) + 0.18 * arm

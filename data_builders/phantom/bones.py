"""Projected density of ribs, spine, clavicles and shoulder blades."""

import numpy as np

from data_builders.phantom.anatomy import WIDEST_Y, Anatomy, Chest, Map, bump, edge


def bones(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    """Density of all bones, in units where soft tissue of the trunk is about 1."""
    return _ribs(anatomy, chest) + _spine(anatomy, chest) + _shoulder(anatomy, chest, arms_down)


def _ribs(anatomy: Anatomy, chest: Chest) -> Map:
    side = np.abs(chest.x)
    t = np.clip(1 - chest.wall / np.maximum(chest.wall + side, 1e-3), 0, 1)  # 0 midline, 1 wall
    t4 = t * t * t * t
    spacing = np.float32(anatomy.rib_spacing)
    # Seen from the front, a rib's dorsal part arches out of the spine and falls towards the wall,
    # its ventral part runs from there down to the cartilage.
    dorsal = anatomy.rib_slope * t * t + 0.35 * t4 * t4 - 0.12 * bump(2 * t - 0.8)
    ventral = 0.75 * (1 - t) * (1 + 0.4 * (1 - t)) + 0.25 * (1 - t4)
    top = np.float32(anatomy.apex_y)
    behind = (chest.y - top + np.float32(0.05) - dorsal) / spacing
    front = (chest.y - top - np.float32(0.38) - ventral + np.float32(0.25)) / (spacing * 1.12)
    cage = edge(chest.wall + 0.02, 0.05) * edge(chest.y - top + 0.02, 0.08)
    tangential = 1 + 0.6 * t4  # the beam runs along the rib near the wall
    back = _bars(behind, anatomy.rib_jitter, 10.5, 0.3) * edge(side - 0.12, 0.06) * tangential
    cartilage = edge(side - np.float32(0.42 * anatomy.cage_width), 0.25)
    fore = _bars(front, anatomy.rib_jitter[::-1], 6.5, 0.34) * cartilage
    below = 1 - 0.5 * edge(chest.y - chest.dome, 0.1)
    return np.float32(anatomy.rib_density) * cage * below * (back + np.float32(0.7) * fore)


def _bars(phase: Map, jitter: np.ndarray, last: float, half_width: float) -> Map:
    """Bars of height 1 at whole phases from 0 to `last`, brighter at both rims."""
    index = np.clip(np.rint(phase), 0, len(jitter) - 1).astype(np.intp)
    offset = (phase - np.rint(phase) - jitter.astype(np.float32)[index]) / np.float32(half_width)
    inside = edge(1 - np.abs(offset), 0.5)
    rim = bump((np.abs(offset) - 0.8) * 3.5)
    return (0.8 * inside + 0.45 * rim) * (phase > -0.5) * (phase < last)


def _spine(anatomy: Anatomy, chest: Chest) -> Map:
    x = chest.x - np.float32(anatomy.spine_bend) * (1 - chest.y * chest.y)
    half_width = 0.11 + 0.02 * chest.y
    phase = chest.y / np.float32(0.19 + 0.0)
    phase = phase - np.floor(phase) - 0.5
    disc = bump(phase * 4)
    body = edge(half_width - np.abs(x) + 0.03 * disc, 0.03)
    pedicle = bump((np.abs(x) - 0.07) * 30) * bump((phase - 0.25) * 5)
    spinous = bump(x * 30) * bump((phase + 0.2) * 4)
    return body * (0.14 - 0.05 * disc) + 0.06 * pedicle + 0.05 * spinous


def _shoulder(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    side = np.abs(chest.x)
    s = side - 0.12
    # Medial end low and thick, an S to the shoulder.
    top = anatomy.apex_y + 0.28
    middle = np.float32(top) - anatomy.clavicle_slope * s + 0.1 * bump((s - 0.25) * 2.2)
    offset = (chest.y - middle) / np.float32(0.055)
    clavicle = edge(1 - np.abs(offset), 0.4) * 0.7 + 0.35 * bump((np.abs(offset) - 0.8) * 3)
    clavicle = clavicle * edge(s, 0.05) * edge(1.05 - side, 0.1)
    # Arms raised or forward turn the shoulder blades out of the lungs.
    blade_x = np.float32(anatomy.cage_width * (0.84 if arms_down else 1.0))
    border = side - blade_x + 0.22 * (chest.y + 0.3)
    blade = edge(border, 0.03) * edge(chest.y + 0.95, 0.1) * edge(-chest.y - 0.05 - 0.5 * border, 0.1)
    rim = bump(border * 22) * blade
    dx, dy = side - np.float32(1.28), chest.y - np.float32(anatomy.apex_y + 0.22)
    head = edge(0.17 - np.sqrt(dx * dx + dy * dy), 0.05)
    if arms_down:
        shaft = np.abs(side - 1.36 - 0.12 * (chest.y + 0.9))
        head = np.maximum(head, edge(0.09 - shaft, 0.03) * edge(chest.y + 0.9, 0.05))
    density = np.float32(1.6 * anatomy.rib_density)
    return density * clavicle + 0.05 * blade + 0.05 * rim + 0.22 * head * edge(WIDEST_Y - chest.y, 2)

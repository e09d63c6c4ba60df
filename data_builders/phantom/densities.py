"""Projected density of soft tissue, air, bones and devices; the trunk's is about 1."""

import numpy as np
from jaxtyping import Float

from data_builders.phantom.anatomy import (
    HILUM_X,
    HILUM_Y,
    RIBS,
    Anatomy,
    Chest,
    Map,
    bump,
    disc,
    edge,
    interpolate,
    texture,
)
from data_builders.phantom.radiograph import Devices, Pose

_ALONG = np.linspace(0, 1, 80)


def body_grid(pose: Pose, size: int) -> tuple[Map, Map, float]:
    """Returns body coordinates x, y of every pixel, and the side of a pixel in body units."""
    centres = (2 * np.arange(size) + 1) / size - 1
    right, down = centres - pose.shift_x, centres - pose.shift_y
    cos, sin = np.cos(pose.angle) * pose.zoom, np.sin(pose.angle) * pose.zoom
    x = cos * right[None, :] + sin * down[:, None]
    y = -sin * right[None, :] + cos * down[:, None]
    return x.astype(np.float32), y.astype(np.float32), 2 * pose.zoom / size


def scatter_points(pose: Pose, points: Float[np.ndarray, "points 3"], size: int) -> Map:
    """Returns the density of thin structures: points (x, y, mass) in body units (bilinear)."""
    cos, sin = np.cos(pose.angle) / pose.zoom, np.sin(pose.angle) / pose.zoom
    right = cos * points[:, 0] - sin * points[:, 1] + pose.shift_x
    down = sin * points[:, 0] + cos * points[:, 1] + pose.shift_y
    column, row = (right + 1) * size / 2 - 0.5, (down + 1) * size / 2 - 0.5
    inside = (column >= 0) & (column < size - 1) & (row >= 0) & (row < size - 1)
    column, row, mass = column[inside], row[inside], points[inside, 2]
    left, top = column.astype(np.intp), row.astype(np.intp)
    u, v = column - left, row - top
    corner = top * size + left
    indices = np.concatenate([corner, corner + 1, corner + size, corner + size + 1])
    shares = np.concatenate([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    total = np.bincount(indices, shares * np.tile(mass, 4), minlength=size * size)
    return (total / (2 * pose.zoom / size) ** 2).reshape(size, size).astype(np.float32)


def trunk(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    """Returns trunk, neck, shoulders and arms, as if they were solid."""
    side, y = np.abs(chest.x), chest.y
    half = np.float32(anatomy.cage_width + 0.1 + anatomy.fat)
    neck = np.float32(0.3 + 0.25 * anatomy.fat)
    beyond = np.maximum(side - neck, 0)
    fall = np.float32(anatomy.shoulder_slope) * beyond * (0.35 + 0.45 * beyond)
    shoulder = y - np.float32(anatomy.apex_y - 0.22) - fall
    waist = half + np.float32(0.06) * np.maximum(y - 0.6, 0) - side
    if arms_down:
        arm = np.minimum(side - half - 0.03, half + 0.55 - side + 0.1 * y)
    else:
        arm = -0.3 - y + 0.9 * (side - half)
    inside = np.maximum(neck - side, np.minimum(shoulder, np.maximum(waist, arm)))
    inside = np.maximum(inside, 0)
    uneven = interpolate(texture(anatomy), 7.5 + 5 * chest.x, 7.5 + 5 * y)
    thickness = (0.92 + np.float32(0.35 * anatomy.fat)) * (1 + 0.03 * uneven)
    return thickness * inside / (inside + np.float32(0.09))


def hila(chest: Chest) -> Map:
    """Returns the roots of both lungs, 1 at their centres."""
    dx = (np.abs(chest.x) - np.float32(HILUM_X)) / np.float32(0.2)
    dy = (chest.y - np.float32(HILUM_Y)) / np.float32(0.3)
    return bump(np.sqrt(dx * dx + dy * dy))


def abdomen(anatomy: Anatomy, chest: Chest) -> Map:
    """Returns what lies below the diaphragm, beyond the trunk's own density; gas is negative."""
    depth = chest.y - chest.dome
    below = edge(depth, chest.pixel) * (chest.wall > -0.1)
    radius = anatomy.stomach_gas + 1e-3
    centre_y = anatomy.domes[1] + anatomy.stomach_y
    bubble = disc(chest, anatomy.stomach_x, centre_y, 1.5 * radius, radius)
    gas = edge(1 - np.sqrt(bubble), 0.25)
    return below * (0.08 + 0.12 * np.clip(depth, 0, 1) - 0.3 * gas)


def breasts(anatomy: Anatomy, chest: Chest) -> Map:
    """Returns shadows over the lower lungs, with a rounded lower border."""
    dx = (np.abs(chest.x) - np.float32(0.6)) / np.float32(0.55)
    dy = (chest.y - np.float32(anatomy.breast_y)) / np.float32(0.5)
    squared = dx * dx + dy * dy + 0.35 * dx * dx * dy
    return np.float32(0.22 * anatomy.breast) * np.sqrt(np.maximum(1 - squared, 0))


def airways(anatomy: Anatomy, chest: Chest) -> Map:
    """Returns the air in trachea and main bronchi, to be subtracted from the trunk."""
    x = np.abs(chest.x - np.float32(anatomy.trachea_shift))
    trachea = edge(0.06 - x, 0.03) * edge(-chest.y - 0.2, 0.1)
    fork = np.abs(x - 0.45 * (chest.y + 0.25))
    bronchi = edge(0.035 - fork, 0.03) * edge(chest.y + 0.25, 0.05) * edge(-chest.y, 0.1)
    return np.float32(0.16) * np.maximum(trachea, bronchi)


def bones(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    """Returns ribs, spine, clavicles, shoulder blades and arms."""
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
    """Returns bars of height 1 at whole phases from 0 to `last`, brighter at both rims (cortex)."""
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


def devices(worn: Devices, chest: Chest, pose: Pose) -> Map:
    """Returns tubes, lines, leads, a pacemaker, nipples, a skin fold, the side marker."""
    density = np.zeros_like(chest.x)
    curves = _curves(worn)
    if curves:
        density += scatter_points(pose, np.concatenate(curves), chest.x.shape[0])
    for x, y, _, _ in worn.leads:
        density += 0.2 * edge(0.05 - np.sqrt(disc(chest, x, y, 1.0, 1.0)), chest.pixel)
    if worn.pacemaker:
        squared = disc(chest, 0.68 * worn.pacemaker, -0.8, 0.17, 0.13)
        density += 0.8 * edge(1 - squared, 0.3)
    if worn.nipples:
        for x in (-0.58, 0.58):
            distance = np.sqrt(disc(chest, x, 0.5, 1.0, 1.0))
            density += np.float32(worn.nipples) * edge(0.07 - distance, 0.03)
    if worn.skin_fold is not None:
        x, slope, strength = worn.skin_fold
        distance = chest.x - np.float32(x) - np.float32(slope) * chest.y
        inwards = distance * np.float32(-np.sign(x))
        fading = np.clip(1 - 3 * inwards, 0, 1)
        density += np.float32(strength) * edge(inwards, chest.pixel) * fading
    if worn.marker is not None:
        density += 1.5 * _marker(*worn.marker, chest.x.shape[0])
    return density


def _curves(worn: Devices) -> list[Float[np.ndarray, "points 3"]]:
    s, curves = _ALONG, []
    if worn.tube:
        y = -1.7 + (worn.tube_end + 1.7) * s
        curves.append(_curve(0.01 + 0.06 * np.clip(y, 0, 2) ** 2, y, 0.03 * worn.tube))
    if worn.catheter:
        x = worn.catheter * (0.6 * (1 - s) ** 2 + 0.1)
        curves.append(_curve(x, -1.1 + 1.05 * s - 0.25 * np.sin(3 * s), 0.007))
    for x0, y0, x1, y1 in worn.leads:
        sag = 0.3 * s * (1 - s)
        curves.append(_curve(x0 + (x1 - x0) * s, y0 + (y1 - y0) * s + sag, 0.005))
    if worn.pacemaker:
        x = worn.pacemaker * (0.6 - 0.9 * s + 0.45 * s * s)
        curves.append(_curve(x, -0.8 + 1.25 * s, 0.012))
    return curves


def _curve(
    x: Float[np.ndarray, "points"], y: Float[np.ndarray, "points"], section: float
) -> Float[np.ndarray, "points 3"]:
    lengths = np.hypot(np.gradient(x), np.gradient(y))
    return np.stack([x, y, section * lengths], axis=-1)


def _marker(right: float, top: float, kind: int, size: int) -> Map:
    """Returns a lead letter in the upper corner of the patient's left: L, or strokes, by `kind`."""
    letter = np.zeros((size, size), np.float32)
    height, width, thick = round(0.06 * size), round(0.04 * size), max(round(0.012 * size), 1)
    row, column = round(top * size), size - round(right * size) - width
    if kind < 3:
        letter[row : row + height, column : column + thick] = 1
        letter[row + height - thick : row + height, column : column + width] = 1
    if kind > 1:
        letter[row - 3 * thick : row - thick, column : column + width] = 1
    return letter

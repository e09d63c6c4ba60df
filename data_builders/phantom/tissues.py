"""Projected density of soft tissue and of the air in trachea and stomach; the trunk is about 1."""

import numpy as np

from data_builders.phantom.anatomy import HILUM_X, HILUM_Y, Anatomy, texture
from data_builders.phantom.chest import Chest, Map, bump, disc, edge, interpolate


def trunk(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    """Trunk, neck, shoulders and arms, as if they were solid."""
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
    """The roots of both lungs, 1 at their centres."""
    dx = (np.abs(chest.x) - np.float32(HILUM_X)) / np.float32(0.2)
    dy = (chest.y - np.float32(HILUM_Y)) / np.float32(0.3)
    return bump(np.sqrt(dx * dx + dy * dy))


def abdomen(anatomy: Anatomy, chest: Chest) -> Map:
    """What lies below the diaphragm, beyond the trunk's own density; gas is negative."""
    depth = chest.y - chest.dome
    below = edge(depth, chest.pixel) * (chest.wall > -0.1)
    radius = anatomy.stomach_gas + 1e-3
    centre_y = anatomy.domes[1] + anatomy.stomach_y
    bubble = disc(chest, anatomy.stomach_x, centre_y, 1.5 * radius, radius)
    gas = edge(1 - np.sqrt(bubble), 0.25)
    return below * (0.08 + 0.12 * np.clip(depth, 0, 1) - 0.3 * gas)


def breasts(anatomy: Anatomy, chest: Chest) -> Map:
    """Shadows over the lower lungs, with a rounded lower border."""
    dx = (np.abs(chest.x) - np.float32(0.6)) / np.float32(0.55)
    dy = (chest.y - np.float32(anatomy.breast_y)) / np.float32(0.5)
    squared = dx * dx + dy * dy + 0.35 * dx * dx * dy
    return np.float32(0.22 * anatomy.breast) * np.sqrt(np.maximum(1 - squared, 0))


def airways(anatomy: Anatomy, chest: Chest) -> Map:
    """Air in trachea and main bronchi, to be taken away from the trunk."""
    x = np.abs(chest.x - np.float32(anatomy.trachea_shift))
    trachea = edge(0.06 - x, 0.03) * edge(-chest.y - 0.2, 0.1)
    fork = np.abs(x - 0.45 * (chest.y + 0.25))
    bronchi = edge(0.035 - fork, 0.03) * edge(chest.y + 0.25, 0.05) * edge(-chest.y, 0.1)
    return np.float32(0.16) * np.maximum(trachea, bronchi)

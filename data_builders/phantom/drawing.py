"""Draws a film: anatomy, devices and findings become a projected density, then a grey value.

Everything is a function of (seed, patient, film); white is dense, as a radiologist sees it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_builders.phantom.anatomy import (
    HILUM,
    Anatomy,
    Chest,
    Map,
    bump,
    edge,
    interpolate,
    lay_out,
    sample_anatomy,
)
from data_builders.phantom.bones import bones
from data_builders.phantom.film import (
    Devices,
    Film,
    body_grid,
    collimated,
    develop,
    sample_film,
    scatter_points,
    smooth,
)
from data_builders.phantom.findings import LABEL_NAMES, Change, change, is_cardiomegaly

LUNG_AIR = np.float32(0.58)


def film_parameters(seed: int, patient: int, film: int) -> tuple[Anatomy, Film]:
    """The parameters of one film. `patient` and `film` count from 0."""
    anatomy = sample_anatomy(np.random.default_rng([seed, patient, 0]))
    # SeedSequence ignores trailing zeros, so the films' streams count from 1.
    return anatomy, sample_film(np.random.default_rng([seed, patient, film + 1]), anatomy)


def draw(seed: int, patient: int, film: int, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws one film of `size` x `size` pixels."""
    return render(*film_parameters(seed, patient, film), size)


def render(anatomy: Anatomy, film: Film, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws a film from its parameters."""
    chest = chest_on_film(anatomy, film, size)
    changes = [change(f, chest, anatomy, film.pose.breath) for f in film.findings]
    density = _density(anatomy, film, chest, changes)
    return develop(density, film.exposure, film.noise_seed)


def chest_on_film(anatomy: Anatomy, film: Film, size: int) -> Chest:
    """The chest's shapes on the film's grid."""
    x, y, pixel = body_grid(film.pose, size)
    return lay_out(anatomy, x, y, pixel, film.pose.breath, film.pose.heart_scale)


def _density(anatomy: Anatomy, film: Film, chest: Chest, changes: list[Change]) -> Map:
    pose, exposure = film.pose, film.exposure
    size = chest.x.shape[0]
    vessels = smooth(scatter_points(pose, anatomy.vessels, size), 0.5 / size)
    vessels = np.minimum(np.float32(anatomy.vessel_density) * vessels, 0.5)
    vessels = vessels + np.float32(0.16) * _hila(chest)
    air, added = chest.depth, np.float32(0)
    for one in changes:
        air, added, vessels = air * (1 - one.opacity), added + one.density, vessels * one.vessels
    trunk = _soft_tissue(anatomy, chest, pose.arms_down)
    texture = interpolate(anatomy.texture, 7.5 + 5 * chest.x, 7.5 + 5 * chest.y)
    trunk = trunk * (1 + 0.03 * texture)
    solid = np.maximum(0.92 * chest.heart, chest.mediastinum * (chest.y < 0.1))
    visible = 1 - solid
    density = trunk - LUNG_AIR * air * visible + 0.12 * chest.heart
    density = density + chest.lung * visible * (vessels * 0.4 + added)
    density = density + np.float32(exposure.bones) * bones(anatomy, chest, pose.arms_down)
    density = density + _abdomen(anatomy, chest) + _breasts(anatomy, chest) * (trunk > 0.3)
    density = density - _trachea(anatomy, chest)
    return density + devices(film.devices, chest, film)


def _soft_tissue(anatomy: Anatomy, chest: Chest, arms_down: bool) -> Map:
    side, y = np.abs(chest.x), chest.y
    half = np.float32(anatomy.cage_width + 0.1 + anatomy.fat)
    neck = np.float32(0.3 + 0.25 * anatomy.fat)
    slope = np.float32(anatomy.shoulder_slope)
    beyond = np.maximum(side - neck, 0)
    shoulder = y - np.float32(anatomy.apex_y - 0.22) - slope * beyond * (0.35 + 0.45 * beyond)
    trunk = half + np.float32(0.06) * (y > 0.6) * (y - 0.6) - side
    if arms_down:
        arm = np.minimum(side - half - 0.03, half + 0.55 - side + 0.1 * y)
    else:
        arm = -0.3 - y + 0.9 * (side - half)
    body = np.maximum(neck - side, np.minimum(shoulder, np.maximum(trunk, arm)))
    inside = np.maximum(body, 0)
    return (0.92 + np.float32(0.35) * anatomy.fat) * inside / (inside + np.float32(0.09))


def _hila(chest: Chest) -> Map:
    dx = (np.abs(chest.x) - np.float32(HILUM[0])) / np.float32(0.2)
    dy = (chest.y - np.float32(HILUM[1])) / np.float32(0.3)
    return bump(np.sqrt(np.minimum(dx * dx + dy * dy, 1)))


def _abdomen(anatomy: Anatomy, chest: Chest) -> Map:
    depth = chest.y - chest.dome
    below = edge(depth, chest.pixel) * (chest.wall > -0.1)
    x, lower, radius = anatomy.stomach
    dx = (chest.x - np.float32(x)) / np.float32(1.5 * radius + 1e-3)
    dy = (chest.y - np.float32(anatomy.dome[1] + lower)) / np.float32(radius + 1e-3)
    gas = edge(1 - np.sqrt(dx * dx + dy * dy), 0.25) * below
    return below * (0.08 + 0.12 * np.clip(depth, 0, 1)) - 0.3 * gas


def _breasts(anatomy: Anatomy, chest: Chest) -> Map:
    dx = (np.abs(chest.x) - np.float32(0.6)) / np.float32(0.55)
    dy = (chest.y - np.float32(anatomy.breast_y)) / np.float32(0.5)
    squared = dx * dx + dy * dy + 0.35 * dx * dx * dy
    return np.float32(0.22 * anatomy.breast) * np.sqrt(np.maximum(1 - squared, 0))


def _trachea(anatomy: Anatomy, chest: Chest) -> Map:
    x = chest.x - np.float32(anatomy.trachea_shift)
    down = edge(-chest.y - 0.2, 0.1)
    tube = edge(0.06 - np.abs(x), 0.03) * down
    fork = np.abs(np.abs(x) - 0.45 * (chest.y + 0.25))
    bronchi = edge(0.035 - fork, 0.03) * edge(chest.y + 0.25, 0.05) * edge(0.0 - chest.y, 0.1)
    return np.float32(0.16) * np.maximum(tube, bronchi)


def devices(devices: Devices, chest: Chest, film: Film) -> Map:
    """Density of tubes, lines, leads, nipples, skin folds and the side marker."""
    size = chest.x.shape[0]
    density = np.zeros_like(chest.x)
    curves = []
    s = np.linspace(0, 1, 80)
    if devices.tube:
        y = -1.7 + (devices.tube_end + 1.7) * s
        curves.append((0.01 + 0.06 * np.clip(y, 0, 2) ** 2, y, 0.03 * devices.tube))
    if devices.catheter:
        y = -1.1 + 1.05 * s
        curves.append((devices.catheter * (0.6 * (1 - s) ** 2 + 0.1), y - 0.25 * np.sin(3 * s), 0.007))
    for x0, y0, x1, y1 in devices.leads:
        sag = 0.3 * s * (1 - s)
        curves.append((x0 + (x1 - x0) * s, y0 + (y1 - y0) * s + sag, 0.005))
        dx, dy = chest.x - np.float32(x0), chest.y - np.float32(y0)
        density += np.float32(0.2) * edge(0.05 - np.sqrt(dx * dx + dy * dy), chest.pixel)
    if devices.pacemaker:
        dx = (chest.x - np.float32(0.68 * devices.pacemaker)) / np.float32(0.17)
        dy = (chest.y + np.float32(0.8)) / np.float32(0.13)
        density += np.float32(0.8) * edge(1 - (dx**4 + dy**4), 0.3)
        curves.append((devices.pacemaker * (0.6 - 0.9 * s + 0.45 * s * s), -0.8 + 1.25 * s, 0.012))
    if curves:
        points = [_curve(*curve) for curve in curves]
        density += scatter_points(film.pose, np.concatenate(points), size)
    if devices.nipples:
        for x in (-0.58, 0.58):
            dx, dy = chest.x - np.float32(x), chest.y - np.float32(0.5)
            density += np.float32(devices.nipples) * edge(0.07 - np.sqrt(dx * dx + dy * dy), 0.03)
    if devices.skin_fold is not None:
        x, slope, strength = devices.skin_fold
        distance = chest.x - np.float32(x) - np.float32(slope) * chest.y
        inwards = distance * np.float32(-np.sign(x))
        density += np.float32(strength) * edge(inwards, chest.pixel) * np.clip(1 - 3 * inwards, 0, 1)
    if devices.marker is not None:
        density += 1.5 * _marker(*devices.marker, size)
    return density


def _curve(x, y, mass: float) -> Float[np.ndarray, "points 3"]:
    lengths = np.hypot(np.gradient(x), np.gradient(y))
    return np.stack([x, y, mass * lengths], axis=-1)


def _marker(right: float, top: float, kind: int, size: int) -> Map:
    """A lead letter (L or reversed-L like strokes) in the upper corner of the patient's left."""
    letter = np.zeros((size, size), np.float32)
    height, width, thick = round(0.06 * size), round(0.04 * size), max(round(0.012 * size), 1)
    row, column = round(top * size), size - round(right * size) - width
    if kind < 3:
        letter[row : row + height, column : column + thick] = 1
        letter[row + height - thick : row + height, column : column + width] = 1
    if kind > 1:
        letter[row - 3 * thick : row - thick, column : column + width] = 1
    return letter


class Annotation(NamedTuple):
    """What is true of a film: a label per name, and (label, y0, x0, y1, x1) per finding."""

    labels: dict[str, float]
    boxes: tuple[tuple[str, float, float, float, float], ...]


def annotate(anatomy: Anatomy, film: Film, size: int) -> Annotation:
    """Labels and boxes of a film, from its parameters."""
    chest = chest_on_film(anatomy, film, size)
    visible = collimated(film.exposure, size)
    labels = dict.fromkeys(LABEL_NAMES, 0.0)
    boxes = []
    regions = []
    if is_cardiomegaly(anatomy, film.pose.heart_scale):
        regions.append(("Cardiomegaly", chest.heart))
    for finding in film.findings:
        region = change(finding, chest, anatomy, film.pose.breath).region
        regions.append((type(finding).__name__, region))
    for label, region in regions:
        labels[label] = 1.0
        mask = (region > 0.1) & visible
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            boxes.append(
                (label, rows[0] / size, columns[0] / size, (rows[-1] + 1) / size, (columns[-1] + 1) / size)
            )
    return Annotation(labels, tuple(boxes))

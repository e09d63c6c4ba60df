"""What is on an image but no finding: tubes, lines, leads, nipples, skin folds, the side marker."""

import numpy as np
from jaxtyping import Float

from data_builders.phantom.chest import Chest, Map, disc, edge
from data_builders.phantom.exposure import Devices, Pose
from data_builders.phantom.projection import scatter_points

_ALONG = np.linspace(0, 1, 80)


def devices(worn: Devices, chest: Chest, pose: Pose) -> Map:
    """Density of everything in `worn`."""
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
    """A lead letter in the upper corner of the patient's left: L, or strokes, by `kind`."""
    letter = np.zeros((size, size), np.float32)
    height, width, thick = round(0.06 * size), round(0.04 * size), max(round(0.012 * size), 1)
    row, column = round(top * size), size - round(right * size) - width
    if kind < 3:
        letter[row : row + height, column : column + thick] = 1
        letter[row + height - thick : row + height, column : column + width] = 1
    if kind > 1:
        letter[row - 3 * thick : row - thick, column : column + width] = 1
    return letter

"""From body coordinates to the image, and from projected density to grey values."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_builders.phantom.chest import Map
from data_builders.phantom.exposure import Exposure, Pose


def body_grid(pose: Pose, size: int) -> tuple[Map, Map, float]:
    """Body coordinates x, y of every pixel, and the side of a pixel in body units."""
    centres = (2 * np.arange(size) + 1) / size - 1
    right, down = centres - pose.shift_x, centres - pose.shift_y
    cos, sin = np.cos(pose.angle) * pose.zoom, np.sin(pose.angle) * pose.zoom
    x = cos * right[None, :] + sin * down[:, None]
    y = -sin * right[None, :] + cos * down[:, None]
    return x.astype(np.float32), y.astype(np.float32), 2 * pose.zoom / size


def scatter_points(pose: Pose, points: Float[np.ndarray, "points 3"], size: int) -> Map:
    """Density of thin structures given as points x, y, mass in body units (bilinear)."""
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


def develop(density: Map, exposure: Exposure, noise_seed: int) -> UInt8[np.ndarray, "h w"]:
    """From projected density to the grey values of the image."""
    size = density.shape[0]
    centres = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    tilt = np.float32(exposure.tilt_x) * centres + np.float32(exposure.tilt_y) * centres[:, None]
    seen = density + tilt * (density > 0.1)
    if exposure.scatter > 0:
        # Scattered X-rays lay a blurred copy over the picture and take its contrast.
        glare = _glare(seen)
        seen = (1 - np.float32(exposure.scatter)) * seen + np.float32(exposure.scatter) * glare
    seen = smooth(seen, exposure.blur)
    noise = np.random.default_rng(noise_seed).standard_normal((size, size), np.float32)
    coarse = smooth(noise, 0.9 / size) * np.float32(2.3)
    noise = noise + np.float32(exposure.grain) * (coarse - noise)
    t = np.float32(exposure.gain) * (seen - np.float32(exposure.middle))
    grey = 0.5 + 0.5 * t / np.sqrt(1 + t * t)  # toe and shoulder of the image's curve
    grey = grey ** np.float32(exposure.gamma)
    grey = exposure.black + (exposure.white - exposure.black) * grey
    grey = grey + np.float32(exposure.noise) * noise
    inside = collimated(exposure, size)
    grey = np.where(inside, grey, np.float32(exposure.border))
    return np.clip(np.rint(grey * 255), 0, 255).astype(np.uint8)


def collimated(exposure: Exposure, size: int) -> Bool[np.ndarray, "h w"]:
    """Whether a pixel lies inside the collimator's opening."""
    left, top, right, bottom = exposure.collimation
    along = (np.arange(size) + 0.5) / size
    columns, rows = (along > left) & (along < 1 - right), (along > top) & (along < 1 - bottom)
    return rows[:, None] & columns[None, :]


def smooth(image: Map, sigma: float) -> Map:
    """Gaussian blur, `sigma` in fractions of the side; the rim is repeated beyond the border.

    Sums of shifted rows instead of a matrix product: no BLAS threads to wait for when every core
    draws images of its own, and the same rounding on every machine.
    """
    size = image.shape[0]
    weights = _gaussian(sigma * size)
    reach = len(weights) - 1
    for _ in range(2):
        padded = np.pad(image, ((reach, reach), (0, 0)), mode="edge")
        total = weights[0] * image
        for shift in range(1, reach + 1):
            before, after = padded[reach - shift :][:size], padded[reach + shift :][:size]
            total += weights[shift] * (before + after)
        image = np.ascontiguousarray(total.T)
    return image


def _gaussian(sigma: float) -> Float[np.ndarray, "reach"]:
    offsets = np.arange(max(round(3 * sigma), 1) + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / (2 * weights.sum() - weights[0])).astype(np.float32)


def _glare(image: Map) -> Map:
    """Blur with a standard deviation of about an eighth of the side: a running mean, thrice."""
    size = image.shape[0]
    reach = size // 8
    for _ in range(6):
        padded = np.pad(image, ((reach + 1, reach), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0)
        image = ((sums[2 * reach + 1 :] - sums[:size]) / np.float32(2 * reach + 1)).T
    return np.ascontiguousarray(image)

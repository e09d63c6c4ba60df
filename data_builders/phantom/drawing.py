"""Draws an image: anatomy, devices and findings become a projected density, then grey values.

Everything is a function of (seed, patient, image); white is dense, as a radiologist sees it.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_builders.base.records import Box
from data_builders.phantom import densities
from data_builders.phantom.anatomy import Anatomy, Chest, Map, lay_out, sample_anatomy, vessels
from data_builders.phantom.radiograph import (
    CARDIOMEGALY,
    LABEL_NAMES,
    Exposure,
    Radiograph,
    is_cardiomegaly,
    sample_image,
)

# How much of the trunk's density the air of a whole lung takes away.
LUNG_AIR = np.float32(0.58)
LUNGS = "Lungs"


def image_parameters(seed: int, patient: int, image: int) -> tuple[Anatomy, Radiograph]:
    """Returns the parameters of one image; `patient` and `image` count from 0."""
    anatomy = sample_anatomy(np.random.default_rng([seed, patient, 0]))
    # SeedSequence ignores trailing zeros, so that the images' streams count from 1.
    return anatomy, sample_image(np.random.default_rng([seed, patient, image + 1]), anatomy)


def draw(seed: int, patient: int, image: int, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws one image of `size` x `size` pixels."""
    return render(*image_parameters(seed, patient, image), size)


def render(anatomy: Anatomy, image: Radiograph, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws an image from its parameters."""
    density = _density(anatomy, image, chest_on_image(anatomy, image, size))
    return develop(density, image.exposure, image.noise_seed)


def chest_on_image(anatomy: Anatomy, image: Radiograph, size: int) -> Chest:
    """Returns the chest's shapes on the image's grid."""
    x, y, pixel = densities.body_grid(image.pose, size)
    return lay_out(anatomy, x, y, pixel, image.pose.breath, image.pose.heart_scale)


def _density(anatomy: Anatomy, image: Radiograph, chest: Chest) -> Map:
    pose, size = image.pose, chest.x.shape[0]
    fine = smooth(densities.scatter_points(pose, vessels(anatomy), size), 0.5 / size)
    markings = np.minimum(np.float32(0.4 * anatomy.vessel_density) * fine, 0.2)
    markings += 0.065 * densities.hila(chest)
    air, added = chest.depth, np.zeros_like(chest.x)
    for finding in image.findings:
        one = finding.change(chest, anatomy, pose.breath)
        air, added, markings = air * (1 - one.opacity), added + one.density, markings * one.vessels
    # Heart and great vessels displace the lung; what is in the lung shows only beside them.
    lung = np.maximum(1 - np.maximum(0.92 * chest.heart, chest.mediastinum * (chest.y < 0.1)), 0)
    body = densities.trunk(anatomy, chest, pose.arms_down)
    density = body - LUNG_AIR * air * lung + 0.12 * chest.heart
    density += chest.lung * lung * (markings + added)
    density += np.float32(image.exposure.bones) * densities.bones(anatomy, chest, pose.arms_down)
    density += densities.abdomen(anatomy, chest) + densities.breasts(anatomy, chest) * (body > 0.3)
    density -= densities.airways(anatomy, chest)
    return density + densities.devices(image.devices, chest, pose)


def labels(anatomy: Anatomy, image: Radiograph) -> dict[str, float]:
    """Returns 1 or 0 for every label, from the parameters of the drawing."""
    present = {type(finding).__name__ for finding in image.findings}
    if is_cardiomegaly(anatomy, image.pose.heart_scale):
        present.add(CARDIOMEGALY)
    return {name: float(name in present) for name in LABEL_NAMES}


def boxes(anatomy: Anatomy, image: Radiograph, size: int) -> tuple[Box, ...]:
    """Returns a box around what is visible of each finding; none if the collimator hides it all."""
    found = []
    for label, seen in _regions(anatomy, image, chest_on_image(anatomy, image, size)):
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if len(rows):
            y0, x0 = float(rows[0] / size), float(columns[0] / size)
            y1, x1 = float((rows[-1] + 1) / size), float((columns[-1] + 1) / size)
            found.append(Box(label, y0, x0, y1, x1))
    return tuple(found)


def masks(seed: int, patient: int, image: int, size: int) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Returns what is visible of every finding, empty of those that are absent, and of the lungs.

    A finding's boxes are around the parts of its mask; the heart hides what lies behind it.
    """
    anatomy, taken = image_parameters(seed, patient, image)
    chest = chest_on_image(anatomy, taken, size)
    beside = chest.lung * (1 - np.maximum(chest.heart, chest.mediastinum * (chest.y < 0.1)))
    found = {LUNGS: (beside > 0.5) & collimated(taken.exposure, size)}
    found |= {name: np.zeros((size, size), bool) for name in LABEL_NAMES}
    for label, seen in _regions(anatomy, taken, chest):
        found[label] |= seen
    return found


def _regions(
    anatomy: Anatomy, image: Radiograph, chest: Chest
) -> list[tuple[str, Bool[np.ndarray, "h w"]]]:
    """Returns the label and the visible pixels of each finding."""
    regions = [
        (type(finding).__name__, finding.change(chest, anatomy, image.pose.breath).region)
        for finding in image.findings
    ]
    if is_cardiomegaly(anatomy, image.pose.heart_scale):
        regions.append((CARDIOMEGALY, chest.heart))
    opening = collimated(image.exposure, chest.x.shape[0])
    return [(label, (region > 0.1) & opening) for label, region in regions]


def develop(density: Map, exposure: Exposure, noise_seed: int) -> UInt8[np.ndarray, "h w"]:
    """Turns projected density into the grey values of the image."""
    size = density.shape[0]
    centres = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    tilt = np.float32(exposure.tilt_x) * centres + np.float32(exposure.tilt_y) * centres[:, None]
    seen = density + tilt * (density > 0.1)
    if exposure.scatter > 0:
        # Scattered X-rays lay a blurred copy over the image and reduce its contrast.
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
    """Returns True for every pixel inside the collimator's opening."""
    left, top, right, bottom = exposure.collimation
    along = (np.arange(size) + 0.5) / size
    columns, rows = (along > left) & (along < 1 - right), (along > top) & (along < 1 - bottom)
    return rows[:, None] & columns[None, :]


def smooth(image: Map, sigma: float) -> Map:
    """Blurs with a Gaussian, `sigma` in fractions of the side, the rim repeated beyond the border.

    Sums shifted rows instead of multiplying matrices: no BLAS threads to wait for when every core
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
    """Blurs by about an eighth of the side (standard deviation): a running mean, thrice."""
    size = image.shape[0]
    reach = size // 8
    for _ in range(6):
        padded = np.pad(image, ((reach + 1, reach), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0)
        image = ((sums[2 * reach + 1 :] - sums[:size]) / np.float32(2 * reach + 1)).T
    return np.ascontiguousarray(image)

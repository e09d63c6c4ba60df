"""Draws an image: anatomy, devices and findings become a projected density, then a grey value.

Everything is a function of (seed, patient, image); white is dense, as a radiologist sees it.
"""

import functools

import numpy as np
from jaxtyping import UInt8

from data_builders.base.records import Box
from data_builders.phantom.anatomy import Anatomy, sample_anatomy, vessels
from data_builders.phantom.bones import bones
from data_builders.phantom.chest import Chest, Map, lay_out
from data_builders.phantom.devices import devices
from data_builders.phantom.exposure import Radiograph, sample_image
from data_builders.phantom.findings import CARDIOMEGALY, LABEL_NAMES, change, is_cardiomegaly
from data_builders.phantom.projection import body_grid, collimated, develop, scatter_points, smooth
from data_builders.phantom.tissues import abdomen, airways, breasts, hila, trunk

# How much of the trunk's density the air of a whole lung takes away.
LUNG_AIR = np.float32(0.58)


def image_parameters(seed: int, patient: int, image: int) -> tuple[Anatomy, Radiograph]:
    """The parameters of one image. `patient` and `image` count from 0."""
    # SeedSequence ignores trailing zeros, so that the images' streams count from 1.
    anatomy = _patient(seed, patient)
    return anatomy, sample_image(np.random.default_rng([seed, patient, image + 1]), anatomy)


@functools.lru_cache(maxsize=8)
def _patient(seed: int, patient: int) -> Anatomy:
    return sample_anatomy(np.random.default_rng([seed, patient, 0]))


def draw(seed: int, patient: int, image: int, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws one image of `size` x `size` pixels."""
    return render(*image_parameters(seed, patient, image), size)


def render(anatomy: Anatomy, image: Radiograph, size: int) -> UInt8[np.ndarray, "size size"]:
    """Draws an image from its parameters."""
    density = _density(anatomy, image, chest_on_image(anatomy, image, size))
    return develop(density, image.exposure, image.noise_seed)


def chest_on_image(anatomy: Anatomy, image: Radiograph, size: int) -> Chest:
    """The chest's shapes on the image's grid."""
    x, y, pixel = body_grid(image.pose, size)
    return lay_out(anatomy, x, y, pixel, image.pose.breath, image.pose.heart_scale)


def _density(anatomy: Anatomy, image: Radiograph, chest: Chest) -> Map:
    pose, size = image.pose, chest.x.shape[0]
    fine = smooth(scatter_points(pose, vessels(anatomy), size), 0.5 / size)
    markings = np.minimum(np.float32(0.4 * anatomy.vessel_density) * fine, 0.2)
    markings += 0.065 * hila(chest)
    air, added = chest.depth, np.zeros_like(chest.x)
    for finding in image.findings:
        one = change(finding, chest, anatomy, pose.breath)
        air, added, markings = air * (1 - one.opacity), added + one.density, markings * one.vessels
    # Heart and great vessels displace the lung; what lies in the lung shows only beside them.
    lung = np.maximum(1 - np.maximum(0.92 * chest.heart, chest.mediastinum * (chest.y < 0.1)), 0)
    body = trunk(anatomy, chest, pose.arms_down)
    density = body - LUNG_AIR * air * lung + 0.12 * chest.heart
    density += chest.lung * lung * (markings + added)
    density += np.float32(image.exposure.bones) * bones(anatomy, chest, pose.arms_down)
    density += abdomen(anatomy, chest) + breasts(anatomy, chest) * (body > 0.3)
    return density - airways(anatomy, chest) + devices(image.devices, chest, pose)


def labels(anatomy: Anatomy, image: Radiograph) -> dict[str, float]:
    """1 or 0 for every label, from the parameters of the drawing."""
    present = {type(finding).__name__ for finding in image.findings}
    if is_cardiomegaly(anatomy, image.pose.heart_scale):
        present.add(CARDIOMEGALY)
    return {name: float(name in present) for name in LABEL_NAMES}


def boxes(anatomy: Anatomy, image: Radiograph, size: int) -> tuple[Box, ...]:
    """A box around what can be seen of each finding; none where the collimator hides it all."""
    chest = chest_on_image(anatomy, image, size)
    regions = [
        (type(finding).__name__, change(finding, chest, anatomy, image.pose.breath).region)
        for finding in image.findings
    ]
    if is_cardiomegaly(anatomy, image.pose.heart_scale):
        regions.append((CARDIOMEGALY, chest.heart))
    opening = collimated(image.exposure, size)
    found = []
    for label, region in regions:
        seen = (region > 0.1) & opening
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        if len(rows):
            y0, x0 = float(rows[0] / size), float(columns[0] / size)
            y1, x1 = float((rows[-1] + 1) / size), float((columns[-1] + 1) / size)
            found.append(Box(label, y0, x0, y1, x1))
    return tuple(found)

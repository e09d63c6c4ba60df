"""Labelled findings: their parameters, what they do to the chest, and where they are."""

import dataclasses
from typing import NamedTuple

import numpy as np

from data_builders.phantom.anatomy import Anatomy
from data_builders.phantom.chest import (
    Chest,
    Map,
    bump,
    disc,
    edge,
    heart_widths,
    interpolate,
    lung_borders,
)

LABEL_NAMES = ("Cardiomegaly", "Effusion", "Pneumothorax", "Nodule", "Consolidation")
CARDIOMEGALY = LABEL_NAMES[0]
CARDIOMEGALY_RATIO = 0.5


@dataclasses.dataclass(frozen=True)
class Effusion:
    side: int  # -1 the patient's right (left on the image), 1 left
    height: float  # of the meniscus at the wall above the costophrenic angle
    opacity: float


@dataclasses.dataclass(frozen=True)
class Pneumothorax:
    side: int
    gap: float  # between wall and visceral pleura below the apex
    apex_drop: float
    lower_end: float  # y where the pleura meets the wall again
    lucency: float


@dataclasses.dataclass(frozen=True)
class Nodule:
    x: float
    y: float
    radius: float
    density: float


@dataclasses.dataclass(frozen=True)
class Consolidation:
    x: float
    y: float
    width: float
    height: float
    opacity: float
    patches: tuple[float, ...]  # strength on a 5 x 5 grid over the region


Finding = Effusion | Pneumothorax | Nodule | Consolidation


class Change(NamedTuple):
    """What a finding does on one image."""

    region: Map  # in [0, 1]; the box encloses it
    opacity: Map | float = 0.0  # part of the lung's air that is replaced
    density: Map | float = 0.0  # added to the projected density
    vessels: Map | float = 1.0  # factor on the vessels' density (negative: air bronchogram)


def sample_findings(
    rng: np.random.Generator, anatomy: Anatomy, heart_scale: float, breath: float
) -> tuple[Finding, ...]:
    """Draws the findings of one image other than Cardiomegaly, which the anatomy decides.

    A large heart makes effusions more likely; otherwise findings are independent.
    """
    large_heart = is_cardiomegaly(anatomy, heart_scale)
    draws = rng.random(4)
    found: list[Finding] = []
    sides = rng.choice([-1, 1], 3)
    if draws[0] < (0.36 if large_heart else 0.2):
        both = rng.random() < 0.3
        for side in (-1, 1) if both else (int(sides[0]),):
            found.append(
                Effusion(side, height=0.4 + rng.gamma(2.0, 0.14), opacity=rng.uniform(0.8, 1.0))
            )
    if draws[1] < 0.22:
        found.append(
            Pneumothorax(
                side=int(sides[1]),
                gap=rng.uniform(0.25, 0.55),
                apex_drop=rng.uniform(0.2, 0.6),
                lower_end=rng.uniform(0.4, 1.4),
                lucency=rng.uniform(0.1, 0.18),
            )
        )
    if draws[2] < 0.24:
        for _ in range(int(rng.integers(1, 4))):
            radius = rng.uniform(0.12, 0.18)
            x, y = _inside_lung(rng, anatomy, heart_scale, breath, radius)
            found.append(Nodule(x, y, radius, density=rng.uniform(0.35, 0.6)))
    if draws[3] < 0.24:
        x, y = _inside_lung(rng, anatomy, heart_scale, breath, 0.2)
        found.append(
            Consolidation(
                x,
                y,
                width=rng.uniform(0.36, 0.6),
                height=rng.uniform(0.36, 0.65),
                opacity=rng.uniform(0.7, 0.95),
                patches=tuple(rng.uniform(0.25, 1.0, 25)),
            )
        )
    return tuple(found)


def is_cardiomegaly(anatomy: Anatomy, heart_scale: float) -> bool:
    """Whether the image's cardiothoracic ratio exceeds 0.5 (Danzer 1919)."""
    return anatomy.cardiothoracic_ratio * heart_scale > CARDIOMEGALY_RATIO


def _inside_lung(
    rng: np.random.Generator, anatomy: Anatomy, heart_scale: float, breath: float, margin: float
) -> tuple[float, float]:
    """A place in aerated lung beside the heart, at least `margin` from the borders."""
    side = int(rng.choice([-1, 1]))
    dome = anatomy.domes[(side + 1) // 2] - breath
    y = rng.uniform(anatomy.apex_y + 0.15 + margin, dome - margin)
    medial, lateral = (float(border[0, 0]) for border in lung_borders(anatomy, np.full((1, 1), y)))
    if y > -0.2:
        medial = max(medial, 0.95 * heart_widths(anatomy, heart_scale)[(side + 1) // 2])
    low, high = medial + margin, lateral - margin
    x = rng.uniform(low, high) if low < high else (medial + lateral) / 2
    return float(side * x), float(y)


def change(finding: Finding, chest: Chest, anatomy: Anatomy, breath: float) -> Change:
    """Lays one finding out on an image's grid."""
    match finding:
        case Effusion():
            return _effusion(finding, chest, anatomy, breath)
        case Pneumothorax():
            return _pneumothorax(finding, chest, anatomy)
        case Nodule():
            return _nodule(finding, chest)
        case Consolidation():
            return _consolidation(finding, chest)


def _half(chest: Chest, side: int) -> Map:
    return (chest.x * side > 0).astype(np.float32)


def _effusion(finding: Effusion, chest: Chest, anatomy: Anatomy, breath: float) -> Change:
    angle_y = anatomy.domes[(finding.side + 1) // 2] - breath + anatomy.dome_drop + 0.08
    # The meniscus stands highest at the lateral wall: capillarity and the lung's recoil.
    rise = chest.across * chest.across * chest.across
    top = np.float32(angle_y) - np.float32(finding.height) * (0.5 + 0.5 * rise)
    region = edge(chest.y - top, 0.07) * chest.lung * _half(chest, finding.side)
    return Change(region, opacity=region * np.float32(finding.opacity), vessels=1 - region)


def _pneumothorax(finding: Pneumothorax, chest: Chest, anatomy: Anatomy) -> Change:
    along = (chest.y - np.float32(anatomy.apex_y)) / np.float32(finding.lower_end - anatomy.apex_y)
    gap = finding.gap * np.maximum(1 - along * along, 0)
    below = chest.y - np.float32(anatomy.apex_y + finding.apex_drop)
    # Signed distance to the visceral pleura, positive in the collapsed lung.
    collapsed = np.minimum(chest.wall - gap, below + 0.6 * (chest.wall - gap))
    half = _half(chest, finding.side) * chest.lung
    region = edge(-collapsed, chest.pixel) * half
    line_width = max(0.022, 0.8 * chest.pixel)
    strength = 0.2 * 0.022 / line_width
    line = bump(collapsed / np.float32(line_width)) * half * (gap > 0)
    density = np.float32(strength) * line - np.float32(finding.lucency) * region
    return Change(np.maximum(region, line), density=density, vessels=1 - region)


def _nodule(finding: Nodule, chest: Chest) -> Change:
    squared = disc(chest, finding.x, finding.y, finding.radius, finding.radius)
    # Chord length through a ball, its rim softened.
    ball = np.sqrt(np.maximum(1 - squared, 0))
    region = (squared < 1).astype(np.float32)
    return Change(region, density=np.float32(finding.density) * ball)


def _consolidation(finding: Consolidation, chest: Chest) -> Change:
    u = (chest.x - np.float32(finding.x)) / np.float32(finding.width)
    v = (chest.y - np.float32(finding.y)) / np.float32(finding.height)
    patches = np.asarray(finding.patches, np.float32).reshape(5, 5)
    inside = np.maximum(1 - u * u - v * v, 0)
    texture = interpolate(patches, (u + 1) * 2, (v + 1) * 2)
    same_lung = _half(chest, 1 if finding.x > 0 else -1)
    region = np.minimum(2.6 * inside * texture, 1) * chest.lung * same_lung
    # Air-filled bronchi run beside the vessels and show dark where the lung around them is solid.
    return Change(region, opacity=region * np.float32(finding.opacity), vessels=1 - 1.8 * region)

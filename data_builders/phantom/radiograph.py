"""One image of a patient: position, exposure, devices, and that day's findings."""

import dataclasses
from typing import NamedTuple

import numpy as np

from data_builders.phantom.anatomy import (
    Anatomy,
    Chest,
    Map,
    bump,
    disc,
    edge,
    half,
    heart_widths,
    interpolate,
    lung_borders,
)

LABEL_NAMES = ("Cardiomegaly", "Effusion", "Pneumothorax", "Nodule", "Consolidation")
CARDIOMEGALY = LABEL_NAMES[0]
CARDIOMEGALY_RATIO = 0.5


class Change(NamedTuple):
    """The effect of a finding on one image."""

    region: Map  # in [0, 1]; the box encloses it
    opacity: Map | float = 0.0  # part of the lung's air that is replaced
    density: Map | float = 0.0  # added to the projected density
    vessels: Map | float = 1.0  # factor on the vessels' density (negative: air bronchogram)


@dataclasses.dataclass(frozen=True)
class Effusion:
    side: int  # -1 the patient's right (left on the image), 1 left
    height: float  # of the meniscus at the wall above the costophrenic angle
    opacity: float

    def change(self, chest: Chest, anatomy: Anatomy, breath: float) -> Change:
        angle_y = anatomy.domes[(self.side + 1) // 2] - breath + anatomy.dome_drop + 0.08
        # The meniscus is highest at the lateral wall: capillarity and the lung's recoil.
        rise = chest.across * chest.across * chest.across
        top = np.float32(angle_y) - np.float32(self.height) * (0.5 + 0.5 * rise)
        region = edge(chest.y - top, 0.07) * chest.lung * half(chest, self.side)
        return Change(region, opacity=region * np.float32(self.opacity), vessels=1 - region)


@dataclasses.dataclass(frozen=True)
class Pneumothorax:
    side: int
    gap: float  # between wall and visceral pleura below the apex
    apex_drop: float
    lower_end: float  # y where the pleura meets the wall again
    lucency: float

    def change(self, chest: Chest, anatomy: Anatomy, breath: float) -> Change:
        along = (chest.y - np.float32(anatomy.apex_y)) / np.float32(self.lower_end - anatomy.apex_y)
        gap = self.gap * np.maximum(1 - along * along, 0)
        below = chest.y - np.float32(anatomy.apex_y + self.apex_drop)
        # Signed distance to the visceral pleura, positive in the collapsed lung.
        collapsed = np.minimum(chest.wall - gap, below + 0.6 * (chest.wall - gap))
        lung = half(chest, self.side) * chest.lung
        region = edge(-collapsed, chest.pixel) * lung
        line_width = max(0.022, 0.8 * chest.pixel)
        strength = 0.2 * 0.022 / line_width
        line = bump(collapsed / np.float32(line_width)) * lung * (gap > 0)
        density = np.float32(strength) * line - np.float32(self.lucency) * region
        return Change(np.maximum(region, line), density=density, vessels=1 - region)


@dataclasses.dataclass(frozen=True)
class Nodule:
    x: float
    y: float
    radius: float
    density: float

    def change(self, chest: Chest, anatomy: Anatomy, breath: float) -> Change:
        squared = disc(chest, self.x, self.y, self.radius, self.radius)
        ball = np.sqrt(np.maximum(1 - squared, 0))  # chord length through it
        region = (squared < 1).astype(np.float32)
        return Change(region, density=np.float32(self.density) * ball)


@dataclasses.dataclass(frozen=True)
class Consolidation:
    x: float
    y: float
    width: float
    height: float
    opacity: float
    patches: tuple[float, ...]  # strength on a 5 x 5 grid over the region

    def change(self, chest: Chest, anatomy: Anatomy, breath: float) -> Change:
        u = (chest.x - np.float32(self.x)) / np.float32(self.width)
        v = (chest.y - np.float32(self.y)) / np.float32(self.height)
        patches = np.asarray(self.patches, np.float32).reshape(5, 5)
        inside = np.maximum(1 - u * u - v * v, 0)
        uneven = interpolate(patches, (u + 1) * 2, (v + 1) * 2)
        same_lung = half(chest, 1 if self.x > 0 else -1)
        region = np.minimum(2.6 * inside * uneven, 1) * chest.lung * same_lung
        # Air-filled bronchi beside the vessels show dark where the lung around them is solid.
        return Change(region, opacity=region * np.float32(self.opacity), vessels=1 - 1.8 * region)


Finding = Effusion | Pneumothorax | Nodule | Consolidation


@dataclasses.dataclass(frozen=True)
class Pose:
    zoom: float  # body units from the centre of the image to its side
    angle: float  # radians
    shift_x: float  # fractions of half the image
    shift_y: float
    breath: float  # how far the diaphragm is above full inspiration, body units
    heart_scale: float  # width of the heart against a PA image
    arms_down: bool


@dataclasses.dataclass(frozen=True)
class Exposure:
    middle: float  # density shown as mid-grey
    gain: float  # slope of the image curve there
    gamma: float
    black: float
    white: float
    tilt_x: float  # change of density over half the image (heel effect, patient turned)
    tilt_y: float
    bones: float  # tube voltage: high voltages show bones less
    scatter: float
    blur: float  # standard deviation, fraction of the image's side
    noise: float
    grain: float  # share of the noise that is correlated between pixels
    collimation: tuple[float, float, float, float]  # left, top, right, bottom, fractions
    border: float  # grey value of the collimated border


@dataclasses.dataclass(frozen=True)
class Devices:
    """Things on the image that are no finding."""

    nipples: float  # density, 0 without
    tube: float  # gastric or tracheal tube down the midline, density
    tube_end: float
    catheter: int  # 0 without, else the side of a central venous catheter
    leads: tuple[tuple[float, float, float, float], ...]  # ECG leads: x0 y0 x1 y1
    pacemaker: int
    skin_fold: tuple[float, float, float] | None  # x at the top, slope, density
    marker: tuple[float, float, int] | None  # fractions of the image, kind of letter


@dataclasses.dataclass(frozen=True)
class Radiograph:
    projection: str  # AP or PA
    pose: Pose
    exposure: Exposure
    devices: Devices
    findings: tuple[Finding, ...]
    noise_seed: int


def sample_image(rng: np.random.Generator, anatomy: Anatomy) -> Radiograph:
    """Draws how an image of this patient is taken."""
    bedside = rng.random() < 0.4  # AP, in bed: less inspiration, more devices, less care
    care = 1.6 if bedside else 1.0
    pose = Pose(
        zoom=rng.uniform(1.2, 1.7),
        angle=care * rng.normal(0, 0.055),
        shift_x=care * rng.normal(0, 0.05),
        shift_y=care * rng.normal(0.0, 0.06),
        breath=abs(rng.normal(0, 0.14)) + (rng.uniform(0, 0.12) if bedside else 0.0),
        heart_scale=rng.normal(1.06 if bedside else 1.0, 0.03),
        arms_down=bool(rng.random() < (0.8 if bedside else 0.3)),
    )
    return Radiograph(
        projection="AP" if bedside else "PA",
        pose=pose,
        exposure=_sample_exposure(rng, care),
        devices=_sample_devices(rng, bedside),
        findings=sample_findings(rng, anatomy, pose.heart_scale, pose.breath),
        noise_seed=int(rng.integers(2**31)),
    )


def _sample_exposure(rng: np.random.Generator, care: float) -> Exposure:
    collimation = np.zeros(4)
    if rng.random() < 0.45:
        collimation = rng.uniform(0, 0.09, 4) * (rng.random(4) < 0.5)
    return Exposure(
        middle=rng.uniform(0.5, 0.9),
        gain=rng.uniform(1.5, 3.6),
        gamma=float(np.exp(rng.normal(0, 0.2))),
        black=rng.uniform(0, 0.12),
        white=rng.uniform(0.75, 1.0),
        tilt_x=care * rng.normal(0, 0.05),
        tilt_y=rng.normal(0.03, 0.05),
        bones=rng.uniform(0.5, 1.3),
        scatter=rng.uniform(0, 0.3) * care,
        blur=rng.uniform(0.0025, 0.008),
        noise=rng.uniform(0.004, 0.02),
        grain=rng.uniform(0, 0.8),
        collimation=tuple(collimation.tolist()),
        border=float(rng.choice([0.0, 0.0, 0.03, 1.0])),
    )


def _sample_devices(rng: np.random.Generator, bedside: bool) -> Devices:
    often = 0.45 if bedside else 0.08
    leads = []
    if rng.random() < often:
        for _ in range(int(rng.integers(1, 4))):
            x0, y0, x1, y1 = rng.uniform((-0.9, -0.9, -1.3, 0.2), (0.9, 0.4, 1.3, 1.4))
            leads.append((x0, y0, x1, y1))
    fold = None
    if rng.random() < 0.15:
        fold = (rng.uniform(0.45, 0.8) * rng.choice([-1, 1]), rng.uniform(-0.2, 0.2), 0.07)
    marker = None
    if rng.random() < 0.7:
        marker = (rng.uniform(0.05, 0.14), rng.uniform(0.05, 0.25), int(rng.integers(4)))
    return Devices(
        nipples=rng.uniform(0.04, 0.12) if rng.random() < 0.25 else 0.0,
        tube=rng.uniform(0.12, 0.3) if rng.random() < often else 0.0,
        tube_end=rng.choice([-0.25, 0.9, 1.3]),
        catheter=int(rng.choice([-1, 1])) if rng.random() < often else 0,
        leads=tuple(leads),
        pacemaker=int(rng.choice([-1, 1])) if rng.random() < 0.05 else 0,
        skin_fold=fold,
        marker=marker,
    )


def sample_findings(
    rng: np.random.Generator, anatomy: Anatomy, heart_scale: float, breath: float
) -> tuple[Finding, ...]:
    """Draws the findings of one image except Cardiomegaly, which the anatomy decides.

    A large heart makes effusions more likely; otherwise findings are independent.
    """
    large_heart = is_cardiomegaly(anatomy, heart_scale)
    draws = rng.random(4)
    found: list[Finding] = []
    sides = rng.choice([-1, 1], 3)
    if draws[0] < (0.36 if large_heart else 0.2):
        both = rng.random() < 0.3
        for side in (-1, 1) if both else (int(sides[0]),):
            height = 0.4 + rng.gamma(2.0, 0.14)
            found.append(Effusion(side, height, opacity=rng.uniform(0.8, 1.0)))
    if draws[1] < 0.22:
        low, high = (0.25, 0.2, 0.4, 0.1), (0.55, 0.6, 1.4, 0.18)
        gap, apex_drop, lower_end, lucency = rng.uniform(low, high).tolist()
        found.append(Pneumothorax(int(sides[1]), gap, apex_drop, lower_end, lucency))
    if draws[2] < 0.24:
        for _ in range(int(rng.integers(1, 4))):
            radius = rng.uniform(0.12, 0.18)
            x, y = _inside_lung(rng, anatomy, heart_scale, breath, radius)
            found.append(Nodule(x, y, radius, density=rng.uniform(0.35, 0.6)))
    if draws[3] < 0.24:
        x, y = _inside_lung(rng, anatomy, heart_scale, breath, 0.2)
        width, height, opacity = rng.uniform((0.36, 0.36, 0.7), (0.6, 0.65, 0.95)).tolist()
        patches = tuple(rng.uniform(0.25, 1.0, 25))
        found.append(Consolidation(x, y, width, height, opacity, patches))
    return tuple(found)


def is_cardiomegaly(anatomy: Anatomy, heart_scale: float) -> bool:
    """Returns whether the image's cardiothoracic ratio exceeds 0.5 (Danzer 1919)."""
    return anatomy.cardiothoracic_ratio * heart_scale > CARDIOMEGALY_RATIO


def _inside_lung(
    rng: np.random.Generator, anatomy: Anatomy, heart_scale: float, breath: float, margin: float
) -> tuple[float, float]:
    """Draws a place in aerated lung beside the heart, at least `margin` from the borders."""
    side = int(rng.choice([-1, 1]))
    dome = anatomy.domes[(side + 1) // 2] - breath
    y = rng.uniform(anatomy.apex_y + 0.15 + margin, dome - margin)
    medial, lateral = (float(border[0, 0]) for border in lung_borders(anatomy, np.full((1, 1), y)))
    if y > -0.2:
        medial = max(medial, 0.95 * heart_widths(anatomy, heart_scale)[(side + 1) // 2])
    low, high = medial + margin, lateral - margin
    x = rng.uniform(low, high) if low < high else (medial + lateral) / 2
    return float(side * x), float(y)

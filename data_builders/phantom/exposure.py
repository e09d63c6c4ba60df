"""How one image of a patient was taken: position, exposure, devices, findings of that day."""

import dataclasses

import numpy as np

from data_builders.phantom.anatomy import Anatomy
from data_builders.phantom.findings import Finding, sample_findings


@dataclasses.dataclass(frozen=True)
class Pose:
    zoom: float  # body units from the centre of the image to its side
    angle: float  # radians
    shift_x: float  # fractions of half the image
    shift_y: float
    breath: float  # how far the diaphragm stands above full inspiration, body units
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
    view: str
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
        view="AP" if bedside else "PA",
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

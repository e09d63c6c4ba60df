"""How one film of a patient was taken: position, exposure, devices, and the findings of that day."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_builders.phantom.anatomy import Anatomy, Map
from data_builders.phantom.findings import Finding, sample_findings


@dataclasses.dataclass(frozen=True)
class Pose:
    zoom: float  # body units from the centre of the film to its side
    angle: float  # radians
    shift_x: float  # fractions of half the film
    shift_y: float
    breath: float  # how far the diaphragm stands above full inspiration, body units
    heart_scale: float  # width of the heart against a PA film
    arms_down: bool


@dataclasses.dataclass(frozen=True)
class Exposure:
    middle: float  # density shown as mid-grey
    gain: float  # slope of the film curve there
    gamma: float
    black: float
    white: float
    tilt_x: float  # change of density over half the film (heel effect, patient turned)
    tilt_y: float
    bones: float  # tube voltage: high voltages show bones less
    scatter: float
    blur: float  # standard deviation, fraction of the film's side
    noise: float
    grain: float  # share of the noise that is correlated between pixels
    collimation: tuple[float, float, float, float]  # left, top, right, bottom, fractions
    border: float  # grey value of the collimated border


@dataclasses.dataclass(frozen=True)
class Devices:
    """Things on the film that are no finding."""

    nipples: float  # density, 0 without
    tube: float  # gastric or tracheal tube down the midline, density
    tube_end: float
    catheter: int  # 0 without, else the side of a central venous catheter
    leads: tuple[tuple[float, float, float, float], ...]  # ECG leads: x0 y0 x1 y1
    pacemaker: int
    skin_fold: tuple[float, float, float] | None  # x at the top, slope, density
    marker: tuple[float, float, int] | None  # fractions of the film, kind of letter


@dataclasses.dataclass(frozen=True)
class Film:
    view: str
    pose: Pose
    exposure: Exposure
    devices: Devices
    findings: tuple[Finding, ...]
    noise_seed: int


def sample_film(rng: np.random.Generator, anatomy: Anatomy) -> Film:
    """Draws how a film of this patient is taken."""
    bedside = rng.random() < 0.4  # AP, in bed: less inspiration, more devices, less care
    care = 1.6 if bedside else 1.0
    pose = Pose(
        zoom=rng.uniform(1.18, 1.6),
        angle=care * rng.normal(0, 0.035),
        shift_x=care * rng.normal(0, 0.04),
        shift_y=care * rng.normal(0.02, 0.045),
        breath=abs(rng.normal(0, 0.1)) + (rng.uniform(0, 0.12) if bedside else 0.0),
        heart_scale=rng.normal(1.06 if bedside else 1.0, 0.03),
        arms_down=bool(rng.random() < (0.8 if bedside else 0.3)),
    )
    return Film(
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


def body_grid(pose: Pose, size: int) -> tuple[Map, Map, float]:
    """Body coordinates x, y of every pixel, and the side of a pixel in body units."""
    centres = (2 * np.arange(size) + 1) / size - 1
    right, down = centres - pose.shift_x, centres - pose.shift_y
    cos, sin = np.cos(pose.angle) * pose.zoom, np.sin(pose.angle) * pose.zoom
    x = cos * right[None, :] + sin * down[:, None]
    y = -sin * right[None, :] + cos * down[:, None]
    return x.astype(np.float32), y.astype(np.float32), 2 * pose.zoom / size


def scatter_points(
    pose: Pose, points: Float[np.ndarray, "points 3"], size: int
) -> Float[np.ndarray, "h w"]:
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
    """From projected density to the grey values of the film."""
    size = density.shape[0]
    centres = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    tilt = np.float32(exposure.tilt_x) * centres + np.float32(exposure.tilt_y) * centres[:, None]
    seen = density + tilt * (density > 0.1)
    if exposure.scatter > 0:
        # Scattered X-rays lay a blurred copy over the picture and take its contrast.
        glare = glare_of(seen)
        seen = (1 - np.float32(exposure.scatter)) * seen + np.float32(exposure.scatter) * glare
    seen = smooth(seen, exposure.blur)
    noise = np.random.default_rng(noise_seed).standard_normal((size, size), np.float32)
    coarse = smooth(noise, 0.9 / size) * np.float32(2.3)
    noise = noise + np.float32(exposure.grain) * (coarse - noise)
    t = np.float32(exposure.gain) * (seen - np.float32(exposure.middle))
    grey = 0.5 + 0.5 * t / np.sqrt(1 + t * t)  # toe and shoulder of the film's curve
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
    draws films of its own, and the same rounding on every machine.
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


def glare_of(image: Map) -> Map:
    """Wide blur (standard deviation about an eighth of the side): three passes of a running mean."""
    size = image.shape[0]
    reach = size // 8
    for _ in range(6):
        padded = np.pad(image, ((reach + 1, reach), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0)
        image = ((sums[2 * reach + 1 :] - sums[:size]) / np.float32(2 * reach + 1)).T
    return np.ascontiguousarray(image)

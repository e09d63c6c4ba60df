"""Image-like pictures for fakes: smooth, so that JPEG keeps them, and different for every seed."""

import numpy as np


def draw_image(seed: int, height: int = 72, width: int = 60) -> np.ndarray:
    """A uint8 [h w] picture of a few smooth waves that spans 0 to 255."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [
        rng.normal() * np.cos(np.pi * (rng.uniform(0.5, 3) * y + rng.uniform(0.5, 3) * x) + phase)
        for phase in rng.uniform(0, 2 * np.pi, 5)
    ]
    return stretch(np.sum(waves, axis=0))


def stretch(values: np.ndarray) -> np.ndarray:
    """Minimum to 0, maximum to 255, in float64."""
    values = values.astype(np.float64)
    return np.round(255 * (values - values.min()) / (values.max() - values.min())).astype(np.uint8)


def deep(seed: int, low: int, high: int, height: int = 72, width: int = 60) -> np.ndarray:
    """A uint16 [h w] image whose values span `low` to `high`, far from the whole range."""
    picture = draw_image(seed, height, width).astype(np.float64) / 255
    return np.round(low + picture * (high - low)).astype(np.uint16)

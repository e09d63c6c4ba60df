"""Copies: near-identical images, found where both are at hand by pictures of 32 x 32 pixels.

Only pairs whose perceptual hashes are close (seen_images.close_hashes) are looked at.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

# On NIH's images (docs/results/datasets.md): every copy that was recompressed, rescaled or
# reshaped is within both limits, and pairs of different images are not.
MAX_DISTANCE, MIN_CORRELATION = 6, 0.98
THUMBNAIL = 32
_AT_ONCE = 1 << 14  # pairs

Look = Callable[[int], Float[np.ndarray, " pixels"]]


def thumbnail(picture: Image.Image) -> Float[np.ndarray, " pixels"]:
    """Returns it at 32 x 32 pixels, mean 0 and length 1: dot products are correlations."""
    small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float64).ravel()
    values -= values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-9)


def correlate(
    a: Int[np.ndarray, " n"],
    b: Int[np.ndarray, " n"],
    look_a: Look,
    look_b: Look,
    step: Callable[[], object] = lambda: None,
) -> Float[np.ndarray, " n"]:
    """Returns the correlation of each pair; a look gives the thumbnail of an image by its number.

    Threads look, on all cores. step: called after each pair.
    """
    found = np.zeros(len(a))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(a), _AT_ONCE):
            block = (a[start : start + _AT_ONCE].tolist(), b[start : start + _AT_ONCE].tolist())
            for place, value in enumerate(pool.map(lambda i, j: look_a(i) @ look_b(j), *block)):
                found[start + place] = value
                step()
    return found

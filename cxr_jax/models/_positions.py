"""Positions of a grid of patches: fixed or rotary ones, and one grid's resampled to another."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sincos(rows: int, columns: int, width: int) -> Float[np.ndarray, "rows columns width"]:
    """Returns fixed embeddings: sines, cosines of the column, then of the row (arXiv:2111.06377).

    A quarter of the channels each, with wavelengths of 2 pi to 20,000 pi patches; `width` must
    divide by 4.

    >>> sincos(14, 14, 768).shape
    (14, 14, 768)
    """
    rates = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    down, across = (np.outer(np.arange(count), rates) for count in (rows, columns))
    of_column = np.concatenate([np.sin(across), np.cos(across)], axis=1)[None]
    of_row = np.concatenate([np.sin(down), np.cos(down)], axis=1)[:, None]
    parts = [np.broadcast_to(part, (rows, columns, width // 2)) for part in (of_column, of_row)]
    return np.concatenate(parts, axis=2).astype(np.float32)


ROTARIES = ("dinov3", "eva")


def rotary(
    kind: str, rows: int, columns: int, channels: int, reference: int
) -> Float[np.ndarray, "n half"]:
    """Returns the angles by which a head's pairs of channels are turned: first rows, then columns.

    "dinov3" (arXiv:2508.10104): centres of patches from -1 to 1 across the image, whatever its
    size, with wavelengths from 1 to 100. "eva" (arXiv:2303.11331): patches as numbered on a grid of
    `reference` to a side, with wavelengths of 2 pi to 20,000 pi patches.

    >>> rotary("dinov3", 14, 14, channels=64, reference=0).shape
    (196, 32)
    """
    share = np.arange(channels // 4) / (channels // 4)
    if kind == "dinov3":
        places = [2 * (np.arange(count) + 0.5) / count - 1 for count in (rows, columns)]
        rates = 2 * np.pi * 100.0**-share
    else:
        places = [np.arange(count) / count * reference for count in (rows, columns)]
        rates = 10_000.0**-share
    down, across = (np.outer(place, rates) for place in places)
    shape = (rows, columns, channels // 4)
    parts = np.broadcast_to(down[:, None], shape), np.broadcast_to(across[None], shape)
    return np.concatenate(parts, axis=2).reshape(rows * columns, -1).astype(np.float32)


def rotated(x: Float[Array, "*b d"], angles: Float[Array, "*c half"]) -> Float[Array, "*b d"]:
    """Turns channels k and k + d/2 by angle k, in float32 (RoPE, arXiv:2104.09864)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def resample(
    positions: Float[Array, "g h d"], rows: int, columns: int, antialias: bool = False
) -> Float[Array, "rows columns d"]:
    """Resamples as torch's interpolate(mode="bicubic", align_corners=False); equal sizes stay.

    DINOv2 does not antialias, unless it has registers; timm does.
    """
    height, width, _ = positions.shape
    if (height, width) == (rows, columns):
        return positions
    if antialias:  # torch's kernel is then JAX's
        return jax.image.resize(positions, (rows, columns, positions.shape[2]), "cubic")
    down, across = _cubic(height, rows), _cubic(width, columns)
    return jnp.einsum("ig,jh,ghd->ijd", down, across, positions, precision="highest")


def _cubic(size: int, new_size: int) -> Float[np.ndarray, "new old"]:
    """Returns weights of `size` samples in each of `new_size`; border samples repeat outwards."""
    places = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    first = np.floor(places).astype(int) - 1
    matrix = np.zeros((new_size, size))
    for tap in range(4):
        distance = np.abs(places - (first + tap))
        column = np.clip(first + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new_size), column), _keys(distance))
    return matrix.astype(np.float32)


def _keys(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns Keys's kernel (IEEE Trans. ASSP 1981) with torch's a; antialiased it is -0.5."""
    a = -0.75
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))

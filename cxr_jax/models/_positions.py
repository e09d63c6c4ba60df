"""Position embeddings of a grid of patches: fixed ones, and one grid's resampled to another."""

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

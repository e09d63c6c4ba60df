"""Films as files or arrays to features, for whoever wants nothing else."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num
from PIL import Image

from cxr_jax.weights.encoder import Encoder, features


class FilmEncoder:
    """`encoder(films)` -> features, float32 [n d], one row per film, in evaluation mode.

    films: paths of DICOM, PNG or JPEG files (or a single one); or arrays, uint8 or float in [0, 1],
    white = dense: one [h w], or several, as [n h w], [n h w 1] or a list of [h w] of any sizes.
    A film's shorter side is brought to the size that the encoder reads, its centre cropped, and
    the pixels are normalised as the encoder was trained: pass films as they are.
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.image_size = encoder.image_size
        self._features = features(encoder)

    def __repr__(self) -> str:
        return f"FilmEncoder({self.encoder.name!r}, films of {self.image_size} px)"

    def __call__(
        self,
        films: str | Path | Num[np.ndarray, "..."] | Sequence[str | Path | Num[np.ndarray, "..."]],
        batch_size: int = 32,
    ) -> Float[np.ndarray, "n d"]:
        """Raises ValueError for no films, or naming one that cannot be read or has other pixels."""
        squares = (self._square(film, name) for film, name in _one_by_one(films))
        rows = []
        while batch := list(islice(squares, batch_size)):
            # Few films need no whole batch; powers of two, so that few programs serve.
            size = batch_size if rows else min(batch_size, 1 << (len(batch) - 1).bit_length())
            padded = np.pad(np.stack(batch), ((0, size - len(batch)), (0, 0), (0, 0)))
            rows.append(np.asarray(self._features(padded[..., None]))[: len(batch)])
        if not rows:
            raise ValueError("no films: pass at least one path or array")
        return np.concatenate(rows)

    def _square(self, film: str | Path | np.ndarray, name: str) -> Float[np.ndarray, "size size"]:
        if isinstance(film, str | Path):
            film = _read(Path(film), self.image_size)
        if film.ndim == 3 and film.shape[-1] == 1:
            film = film[..., 0]
        if film.ndim != 2 or 0 in film.shape:
            raise ValueError(f"{name} has shape {film.shape}; a film is [h w] or [h w 1]")
        pixels = _unit(film, name)
        side, (height, width) = min(film.shape), film.shape
        top, left = (height - side) / 2, (width - side) / 2
        box = (left, top, left + side, top + side)
        size = (self.image_size, self.image_size)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box))


def _one_by_one(films: object) -> Iterator[tuple[str | Path | np.ndarray, str]]:
    """Every film, and what to call it in an error."""
    if isinstance(films, str | Path) or (isinstance(films, np.ndarray) and films.ndim == 2):
        films = [films]
    for index, film in enumerate(films):
        is_path = isinstance(film, str | Path)
        yield film if is_path else np.asarray(film), str(film) if is_path else f"film {index}"


def _read(path: Path, size: int) -> np.ndarray:
    from cxr_jax.io.image_io import FilmError, read_film

    try:
        return read_film(path, shorter_side=size)
    except FilmError as error:
        raise ValueError(f"{path}: {error}") from error


def _unit(film: np.ndarray, name: str) -> Float[np.ndarray, "h w"]:
    if film.dtype == np.uint8:
        return film / np.float32(255)
    if not np.issubdtype(film.dtype, np.floating):
        raise ValueError(
            f"{name} is of dtype {film.dtype}: where its black and white lie is not known; scale "
            "it to [0, 1] as float, or pass the path of its file"
        )
    low, high = film.min(), film.max()
    if not (low >= 0 and high <= 1):  # NaN included
        raise ValueError(f"{name} has pixels from {low:g} to {high:g}; scale them to [0, 1]")
    return film.astype(np.float32)

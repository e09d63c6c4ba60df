"""Features of images that are files or arrays, for programs that want nothing else."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num
from PIL import Image

from cxr_jax.weights.encoder import Encoder, features


class ImageEncoder:
    """Turns images into features, float32 [n d], one row per image, in evaluation mode.

    Images are paths of DICOM, PNG or JPEG files (or a single one); or arrays, uint8 or float in
    [0, 1], white = dense: one [h w], or several, as [n h w], [n h w 1] or a list of [h w] of any
    sizes. Pass them as they are: an image's shorter side is brought to the size that the encoder
    reads, its centre cropped, and the pixels normalised as the encoder was trained.

    >>> from cxr_jax.weights import random_encoder
    >>> model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
    >>> encoder = ImageEncoder(random_encoder(model, image_size=32, seed=0))
    >>> encoder(np.zeros((3, 40, 36), np.uint8)).shape
    (3, 64)
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.image_size = encoder.image_size
        self._features = features(encoder)

    def __repr__(self) -> str:
        return f"ImageEncoder({self.encoder.name!r}, images of {self.image_size} px)"

    def __call__(
        self,
        images: str | Path | Num[np.ndarray, "..."] | Sequence[str | Path | Num[np.ndarray, "..."]],
        batch_size: int = 32,
    ) -> Float[np.ndarray, "n d"]:
        """Raises ValueError for no images, or one that cannot be read or has other pixels."""
        squares = (self._square(image, name) for image, name in _one_by_one(images))
        rows = []
        while batch := list(islice(squares, batch_size)):
            # Few images need no whole batch; powers of two, so that few programs serve.
            size = batch_size if rows else min(batch_size, 1 << (len(batch) - 1).bit_length())
            padded = np.pad(np.stack(batch), ((0, size - len(batch)), (0, 0), (0, 0)))
            rows.append(np.asarray(self._features(padded[..., None]))[: len(batch)])
        if not rows:
            raise ValueError("no images: pass at least one path or array")
        return np.concatenate(rows)

    def _square(self, image: str | Path | np.ndarray, name: str) -> Float[np.ndarray, "size size"]:
        if isinstance(image, str | Path):
            image = _read(Path(image), self.image_size)
        if image.ndim == 3 and image.shape[-1] == 1:
            image = image[..., 0]
        if image.ndim != 2 or 0 in image.shape:
            raise ValueError(f"{name} has shape {image.shape}; an image is [h w] or [h w 1]")
        pixels = _unit(image, name)
        side, (height, width) = min(image.shape), image.shape
        top, left = (height - side) / 2, (width - side) / 2
        box = (left, top, left + side, top + side)
        size = (self.image_size, self.image_size)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box))


def _one_by_one(images: object) -> Iterator[tuple[str | Path | np.ndarray, str]]:
    """Every image, and its name in errors."""
    if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim == 2):
        images = [images]
    for index, image in enumerate(images):
        is_path = isinstance(image, str | Path)
        yield image if is_path else np.asarray(image), str(image) if is_path else f"image {index}"


def _read(path: Path, size: int) -> np.ndarray:
    from cxr_jax.io.image_io import ImageError, read_image

    try:
        return read_image(path, shorter_side=size)
    except ImageError as error:
        raise ValueError(f"{path}: {error}") from error


def _unit(image: np.ndarray, name: str) -> Float[np.ndarray, "h w"]:
    if image.dtype == np.uint8:
        return image / np.float32(255)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(
            f"{name} is of dtype {image.dtype}: its values of black and white are unknown; scale "
            "it to [0, 1] as float, or pass the path of its file"
        )
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # NaN included
        raise ValueError(f"{name} has pixels from {low:g} to {high:g}; scale them to [0, 1]")
    return image.astype(np.float32)

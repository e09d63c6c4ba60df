"""A pretrained encoder of any origin, and the features that it gives of images."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from cxr_jax import models, xla
from cxr_jax.io import pixels
from cxr_jax.io.limits import MIN_SIDE
from cxr_jax.io.text import plain
from cxr_jax.weights.convert import errors_naming

_SHAPES = (
    "an image is [h w] or [h w 1], several are [n h w], [n h w 1] or a list of images, of sides "
    f"from {MIN_SIDE} pixels"
)
_LARGEST = 100_000  # number in a model's config
FITS = ("crop", "pad", "squash")


class Encoder(NamedTuple):
    """A pretrained encoder.

    Attributes:
      model: the config from which `models.build` makes the module.
      variables: {"params", "batch_stats"}, all float32; without batch norm "batch_stats" is {}.
      image_size: side of the square images that it reads.
      fit: how an image becomes a square: "crop", its centre; "pad", black at its shorter side;
        "squash", both sides brought to the size.
      text: reads the text tower that was trained beside it (weights/text.py); None: it has none.
    """

    name: str
    model: dict[str, Any]
    variables: dict[str, Any]
    image_size: int
    fit: str = "crop"
    text: Callable[[], Any] | None = None

    @property
    def width(self) -> int:
        """The number of features that it gives."""
        model, images = models.build(self.model), jax.ShapeDtypeStruct((1, 64, 64, 1), np.float32)
        given = (self.variables, images)
        return jax.eval_shape(lambda v, x: model.apply(v, x, False), *given).shape[1]

    @property
    def reads(self) -> tuple[Any, ...]:
        """The model and the squares that it reads, as fingerprints take them."""
        return (self.model, self.image_size, *([self.fit] if self.fit != "crop" else []))


def check_facts(path: Path, model: Any, image_size: Any, fit: Any = "crop") -> None:
    """Checks a model and image size that a stranger's file `path` names. Raises ValueError."""
    if fit not in FITS:
        raise ValueError(f"{path}: fit is {plain(repr(fit))}; use {' or '.join(FITS)}")
    if not (isinstance(model, dict) and _is_size(image_size)):
        raise ValueError(f"{path} has no model or no image_size of a run")
    if any(not abs(n) <= _LARGEST for n in jax.tree.leaves(model) if isinstance(n, int | float)):
        raise ValueError(f"{path}: model {plain(repr(model))} holds an absurd number")
    try:
        models.build(model)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path}: no model of ours ({plain(str(error))})") from error


def check_pixels(mean: Sequence[float], std: Sequence[float], image_size: int | None) -> None:
    """Checks the pixels' mean and deviation, and the size (None: unknown). Raises ValueError."""
    if not (len(mean) == len(std) in (1, 3) and all(map(math.isfinite, mean)) and min(std) > 0):
        raise ValueError(f"mean {plain(repr(mean))} or deviation {plain(repr(std))} is absurd")
    if image_size is not None and not _is_size(image_size):
        raise ValueError(f"images of {plain(repr(image_size))} pixels")


def _is_size(number: Any) -> bool:
    return type(number) is int and 1 <= number <= _LARGEST


def features(encoder: Encoder) -> Callable[[jax.Array], jax.Array]:
    """Compiles the encoder: images, float [b h w 1] in [0, 1], to features, float32 [b d].

    In evaluation mode: an image's features do not depend on its batch.
    """
    model = models.build(encoder.model)
    return _compiled(encoder, partial(model.apply, train=False))


def maps(encoder: Encoder) -> Callable[[jax.Array], jax.Array]:
    """Compiles the encoder: images, as for `features`, to maps of them, float32 [b h w d].

    Raises ValueError for a model that gives no map.
    """
    model = models.build(encoder.model)
    if hasattr(model, "patch_maps"):
        return _compiled(encoder, partial(model.apply, method="patch_maps"))
    if not hasattr(model, "maps"):
        raise ValueError(
            f"model {encoder.model['name']!r} gives no map of an image: it needs the method `maps` "
            "(cxr_jax/models/__init__.py)"
        )
    return _compiled(encoder, partial(model.apply, train=False, method="maps"))


def _compiled(encoder: Encoder, apply: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    # Variables are an argument: as constants of the program they would slow its compilation.
    compiled = jax.jit(apply, compiler_options=xla.options())
    return partial(compiled, jax.device_put(encoder.variables))


def text_encoder(encoder: Encoder) -> Any:
    """Reads the text tower beside an encoder, as weights.text.TextEncoder; ValueError for none."""
    from cxr_jax.weights.text import TextEncoder  # which most encoders do without

    if encoder.text is None:
        raise ValueError(
            f"{encoder.name} has no text tower: encoders have that were trained with reports "
            "(configs/clip.py, configs/convirt.py, docs/text.md)"
        )
    return TextEncoder(encoder.text())


def random_encoder(model_config: Mapping[str, Any] | Any, image_size: int, seed: int) -> Encoder:
    """Returns `model_config` as initialised from `seed`: the untrained baseline.

    >>> random_encoder({"name": "resnet", "variant": "small"}, image_size=32, seed=0).name
    'random'
    """
    model = models.build(model_config)
    images = jnp.zeros((1, image_size, image_size, 1))
    # Unoptimised, the many random draws compile four times faster.
    options = {"xla_backend_optimization_level": 0}
    init = jax.jit(partial(model.init, train=False), compiler_options=options)
    variables = {"batch_stats": {}} | dict(init(jax.random.key(seed), images))
    return Encoder("random", dict(model_config), variables, image_size)


class ImageEncoder:
    """Turns images into features, float32 [n d], one row per image, in evaluation mode.

    Images are paths of DICOM, PNG or JPEG files (or a single one); or arrays, uint8 or float in
    [0, 1] (rounded to 8 bits, as files are), white = dense: one [h w] or [h w 1], several as
    [n h w], [n h w 1] or a list of [h w] or [h w 1] of any sizes. Pass them as they are: an image
    becomes a square of the size that the encoder reads, by a crop of its centre or as `Encoder.fit`
    says, as transfer does it, and its pixels are normalised as the encoder was trained. A file
    gives the features of the array that `read_image` reads from it.

    >>> model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
    >>> encoder = ImageEncoder(random_encoder(model, image_size=32, seed=0))
    >>> encoder(np.zeros((3, 40, 36), np.uint8)).shape
    (3, 64)
    """

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.image_size = encoder.image_size
        self._on_device = encoder._replace(variables=jax.device_put(encoder.variables))
        self._features = features(self._on_device)

    def __repr__(self) -> str:
        return f"ImageEncoder({self.encoder.name!r}, images of {self.image_size} px)"

    def __call__(self, images: object, batch_size: int = 32) -> Float[np.ndarray, "n d"]:
        """Raises ValueError for no images, or one that cannot be read or has other pixels."""
        return self._of_each(self._features, images, batch_size)

    def maps(self, images: object, batch_size: int = 32) -> Float[np.ndarray, "n h w d"]:
        """Returns features of the parts of every image, float32; raises as a call.

        h x w parts cover the square that the encoder reads, from its upper left corner on. A ResNet
        or DenseNet gives its last feature map, whose mean over the parts are the image's features;
        a ViT its patch tokens after the last block and norm, beside the class token, which is not
        among them (of a ViT that norms what it pooled, before the norm; of CLIP's before the
        projection).

        >>> model = {"name": "resnet", "variant": "small"}
        >>> encoder = ImageEncoder(random_encoder(model, image_size=32, seed=0))
        >>> encoder.maps(np.zeros((3, 40, 36), np.uint8)).shape
        (3, 2, 2, 128)
        """
        return self._of_each(self._maps, images, batch_size)

    @cached_property
    def _maps(self) -> Callable[[jax.Array], jax.Array]:
        return maps(self._on_device)

    def _of_each(
        self, function: Callable[[jax.Array], jax.Array], images: object, batch_size: int
    ) -> Float[np.ndarray, "n ..."]:
        squares = (self._square(image, name) for image, name in _one_by_one(images))
        rows = []
        while batch := list(islice(squares, batch_size)):
            # Few images need no whole batch; powers of two, so that few programs serve.
            size = batch_size if rows else min(batch_size, 1 << (len(batch) - 1).bit_length())
            padded = np.pad(np.stack(batch), ((0, size - len(batch)), (0, 0), (0, 0)))
            unit = padded[..., None] / np.float32(255)
            rows.append(np.asarray(function(unit))[: len(batch)])
        if not rows:
            raise ValueError("no images: pass at least one path or array")
        return np.concatenate(rows)

    def text(self, sentences: str | Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Turns sentences into unit vectors, a row each, in the space of `joint`.

        Raises ValueError for an encoder without a text tower, and a sentence longer than it reads.
        """
        return self.text_encoder(sentences)

    def joint(self, images: object, batch_size: int = 32) -> Float[np.ndarray, "n d"]:
        """Turns images into unit vectors of the space of texts: `joint(x) @ text(y).T` are cosines.

        Raises as `text` and as the encoder itself.
        """
        return self.text_encoder.images(self(images, batch_size))

    @cached_property
    def text_encoder(self) -> Any:
        """The text tower, read when it is first needed."""
        return text_encoder(self.encoder)

    def _square(self, image: str | Path | np.ndarray, name: str) -> UInt8[np.ndarray, "size size"]:
        if isinstance(image, str | Path):
            from cxr_jax.io.image_io import read_image  # pydicom, which arrays do without

            with errors_naming(image):
                image = read_image(Path(image))
        if image.ndim == 3 and image.shape[-1] == 1:
            image = image[..., 0]
        if image.ndim != 2 or min(image.shape) < MIN_SIDE:
            raise ValueError(f"{name} has shape {image.shape}; {_SHAPES}")
        scaled = pixels.unscaled(_eight_bits(image, name))
        return pixels.square(scaled, self.image_size, self.encoder.fit)


def _one_by_one(images: object) -> Iterator[tuple[str | Path | np.ndarray, str]]:
    """Yields every image, and its name in errors."""
    if hasattr(images, "shape"):
        images = np.asarray(images)
        if images.ndim == 2 or (images.ndim == 3 and images.shape[-1] == 1):
            images = [images]
        elif images.dtype.kind not in "OU" and images.ndim != 3 and images.shape[3:] != (1,):
            raise ValueError(f"images have shape {images.shape}; {_SHAPES}")
    elif isinstance(images, str | Path):
        images = [images]
    elif not isinstance(images, Iterable):
        raise ValueError(f"images are {type(images).__name__}; {_SHAPES}, or paths")
    for index, image in enumerate(images):
        is_path = isinstance(image, str | Path)
        yield image if is_path else np.asarray(image), str(image) if is_path else f"image {index}"


def _eight_bits(image: np.ndarray, name: str) -> UInt8[np.ndarray, "h w"]:
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(
            f"{name} is of dtype {image.dtype}: its values of black and white are unknown; scale "
            "it to [0, 1] as float, or pass the path of its file"
        )
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # NaN included
        raise ValueError(f"{name} has pixels from {low:g} to {high:g}; scale them to [0, 1]")
    return np.round(255 * image).astype(np.uint8)

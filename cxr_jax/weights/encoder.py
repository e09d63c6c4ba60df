"""A pretrained encoder of any origin: what to build, its variables, and its image size."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cxr_jax import models
from cxr_jax.io.text import plain
from cxr_jax.training import xla

_LARGEST = 100_000  # number in a model's config


class Encoder(NamedTuple):
    """A pretrained encoder.

    Attributes:
      model: the config from which `models.build` makes the module.
      variables: {"params", "batch_stats"}, all float32; without batch norm "batch_stats" is {}.
      image_size: it reads images whose shorter side was brought to this, centre-cropped to a
        square.
    """

    name: str
    model: dict[str, Any]
    variables: dict[str, Any]
    image_size: int


def check_facts(path: Path, model: Any, image_size: Any) -> None:
    """Checks a model and image size that a stranger's file `path` names. Raises ValueError."""
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

    @partial(jax.jit, compiler_options=xla.options())
    def apply(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    # Variables are an argument: as constants of the program they would slow its compilation.
    return partial(apply, jax.device_put(encoder.variables))


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

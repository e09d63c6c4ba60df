"""A pretrained encoder whatever its origin: what to build, its variables, and its image size."""

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
    """`models.build(model)` with `variables` {"params", "batch_stats"}, all float32.

    Without batch norm "batch_stats" is {}.

    It reads images whose shorter side was brought to `image_size`, centre-cropped to a square.
    """

    name: str
    model: dict[str, Any]
    variables: dict[str, Any]
    image_size: int


def check_facts(path: Path, model: Any, image_size: Any) -> None:
    """Refuses what no config of ours says of an encoder; `path` is the file that says it.

    Raises ValueError.
    """
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not (isinstance(model, dict) and whole and 1 <= image_size <= _LARGEST):
        raise ValueError(f"{path} says no model or no image_size of a run")
    if any(not abs(n) <= _LARGEST for n in jax.tree.leaves(model) if isinstance(n, int | float)):
        raise ValueError(f"{path}: model {plain(repr(model))} holds an absurd number")
    try:
        models.build(model)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path}: no model of ours ({plain(str(error))})") from error


def check_pixels(mean: Sequence[float], std: Sequence[float], image_size: int | None) -> None:
    """Refuses pixels' mean and deviation, and a size (None: not said), that no encoder has.

    Raises ValueError.
    """
    if not (len(mean) == len(std) in (1, 3) and all(map(math.isfinite, mean)) and min(std) > 0):
        raise ValueError(f"mean {plain(repr(mean))} or deviation {plain(repr(std))} is absurd")
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if image_size is not None and not (whole and 1 <= image_size <= _LARGEST):
        raise ValueError(f"images of {plain(repr(image_size))} pixels")


def features(encoder: Encoder) -> Callable[[jax.Array], jax.Array]:
    """A compiled function from images, float [b h w 1] in [0, 1], to features, float32 [b d].

    In evaluation mode: an image's features do not depend on its batch.
    """
    model = models.build(encoder.model)

    @partial(jax.jit, compiler_options=xla.options())
    def apply(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    # Variables are an argument: as constants of the program they would slow its compilation.
    return partial(apply, jax.device_put(encoder.variables))


def random_encoder(model_config: Mapping[str, Any] | Any, image_size: int, seed: int) -> Encoder:
    """The baseline of equal architecture: `model_config` as initialised from `seed`, untrained."""
    model = models.build(model_config)
    images = jnp.zeros((1, image_size, image_size, 1))
    # Unoptimised, the many random draws compile four times faster.
    options = {"xla_backend_optimization_level": 0}
    init = jax.jit(partial(model.init, train=False), compiler_options=options)
    variables = {"batch_stats": {}} | dict(init(jax.random.key(seed), images))
    return Encoder("random", dict(model_config), variables, image_size)

"""A pretrained encoder whatever its origin: what to build, its variables, and its image size."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cxr_jax import compiler, models


class Encoder(NamedTuple):
    """`models.build(model)` with `variables` {"params", "batch_stats"}, all float32.

    Without batch norm "batch_stats" is {}.

    It reads films whose shorter side was brought to `image_size`, centre-cropped to a square.
    """

    name: str
    model: dict[str, Any]
    variables: dict[str, Any]
    image_size: int


def features(encoder: Encoder) -> Callable[[jax.Array], jax.Array]:
    """A compiled function from films, float [b h w 1] in [0, 1], to features, float32 [b d].

    In evaluation mode: a film's features do not depend on its batch.
    """
    model = models.build(encoder.model)

    @partial(jax.jit, compiler_options=compiler.options())
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

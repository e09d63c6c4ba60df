"""What the benchmarks train on, and how much work a step is."""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Shaped, UInt8
from ml_collections import ConfigDict

from cxr_jax.augment.views import augment_view
from cxr_jax.objectives import _frozen
from cxr_jax.training import sharding, step

EPOCH = 100_000  # images, where a warm-up is counted in epochs


def invent_images(count: int, size: int, seed: int = 0) -> UInt8[np.ndarray, "b size size 1"]:
    """Images of random blocks a tenth of the side: unlike each other, as batch norm needs them."""
    block = max(size // 10, 1)
    cells = -(-size // block)
    images = np.random.default_rng(seed).integers(0, 256, (count, cells, cells, 1), np.uint8)
    return images.repeat(block, axis=1).repeat(block, axis=2)[:, :size, :size]


def invent_batch(config: ConfigDict, made: step.Training) -> dict[str, Shaped[Array, "..."]]:
    """A batch as `made.step` takes it, on the devices: images, and ones for whatever else it holds.

    Images by different names differ.
    """

    def invent(number: int, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if shape.ndim == 4:
            return invent_images(*shape.shape[:2], seed=number)
        return np.ones(shape.shape, shape.dtype)

    shapes = made.shapes()[1]
    batch = {name: invent(number, shape) for number, (name, shape) in enumerate(shapes.items())}
    return sharding.put_batch(batch, made.mesh)


def prepare(config: ConfigDict) -> step.Training:
    """The training of a config's objective on `EPOCH` images."""
    return step.prepare(config, _frozen.build(config), EPOCH)


def step_flops(config: ConfigDict) -> float:
    """Floating-point operations of the networks in one step, forward and backward.

    XLA's count for the program as written, less that of the augmentation. What microbatches or
    rematerialisation compute twice counts once: it is the work that the step was to do.
    """
    plain = config.copy_and_resolve_references()
    plain.microbatch_size = 0
    made = prepare(plain)
    state, batch = made.shapes()
    whole = made.step.lower(state, batch).cost_analysis()["flops"]
    key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    for view in plain.views.values():
        views = jax.jit(partial(augment_view, view=view)).lower(key, batch["image"])
        whole -= views.cost_analysis()["flops"]
    return whole

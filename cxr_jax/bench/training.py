"""Our training step as the pretraining loop runs it, for the benchmarks that time or compile it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import UInt8
from ml_collections import ConfigDict

from cxr_jax import objectives, optim, sharding, train_state
from cxr_jax.augment.views import augment_view
from cxr_jax.objectives import Objective

_EPOCH = 100_000  # films, where a warm-up is counted in epochs


class Training(NamedTuple):
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    mesh: Mesh
    step: Any  # the jitted (state, batch) -> (state, metrics), the state donated

    def create(self, config: ConfigDict) -> train_state.TrainState:
        """The state before the first step, on the mesh."""
        return self._creation(config)()

    def shapes(self, config: ConfigDict) -> tuple[Any, Any]:
        """(state, batch) as shapes on the mesh, to compile for without running."""
        everywhere, split = sharding.replicated(self.mesh), sharding.by_example(self.mesh)
        state = jax.eval_shape(self._creation(config))
        return _placed(state, everywhere), _placed(_batch(config), split)

    def _creation(self, config: ConfigDict):
        create = partial(
            train_state.create, self.objective, self.optimizer, _batch(config), config.seed
        )
        quickly = {"xla_backend_optimization_level": 0}  # it runs once
        return jax.jit(
            create, out_shardings=sharding.replicated(self.mesh), compiler_options=quickly
        )


def prepare(config: ConfigDict) -> Training:
    """Everything that cxr_jax.experiments.pretrain compiles, on all devices."""
    mesh = sharding.make_mesh()
    sharding.check_batch(config.batch_size, mesh)
    objective = objectives.build(config)
    optimizer, schedule = optim.make_optimizer(
        config.optimizer, config.num_train_steps, config.batch_size, _EPOCH
    )
    step = train_state.make_train_step(objective, optimizer, schedule, config.microbatch_size)
    return Training(objective, optimizer, schedule, mesh, jax.jit(step, donate_argnums=0))


def invent_films(count: int, size: int, seed: int = 0) -> UInt8[np.ndarray, "b size size 1"]:
    """Films of random blocks a tenth of the side: unlike each other, as batch norm needs them."""
    block = max(size // 10, 1)
    cells = -(-size // block)
    films = np.random.default_rng(seed).integers(0, 256, (count, cells, cells, 1), np.uint8)
    return films.repeat(block, axis=1).repeat(block, axis=2)[:, :size, :size]


def step_flops(config: ConfigDict) -> float:
    """Floating-point operations of the networks in one step, forward and backward.

    XLA's count for the program as written, less that of the augmentation. What microbatches or
    rematerialisation compute twice counts once: it is the work that the step was to do.
    """
    plain = config.copy_and_resolve_references()
    plain.microbatch_size = 0
    made = prepare(plain)
    state, batch = made.shapes(plain)
    whole = made.step.lower(state, batch).cost_analysis()["flops"]
    key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    for view in plain.views.values():
        views = jax.jit(partial(augment_view, view=view)).lower(key, batch["image"])
        whole -= views.cost_analysis()["flops"]
    return whole


def _batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    size = config.data.image_size
    return {"image": jax.ShapeDtypeStruct((config.batch_size, size, size, 1), np.uint8)}


def _placed(shapes: Any, where: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)

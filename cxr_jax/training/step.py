"""The compiled pieces of a pretraining, on the devices: what makes its state and its step."""

from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cxr_jax.fields import check_positive
from cxr_jax.objectives import Objective, batch_shapes
from cxr_jax.training import optim, sharding, xla
from cxr_jax.training import state as train_state


class Training(NamedTuple):
    """create: () -> state. step: (state, batch) -> (state, metrics), the state donated."""

    objective: Objective
    schedule: optax.Schedule
    mesh: Mesh
    batch: dict[str, jax.ShapeDtypeStruct]
    create: Any  # both jitted, so that they can be lowered too
    step: Any

    def shapes(self, config: ConfigDict) -> tuple[Any, Any]:
        """(state, batch) as shapes with their places, to compile for without running."""
        state = jax.eval_shape(self.create)
        places = sharding.of_state(state, self.mesh, config.shard_state)
        split = jax.tree.map(lambda _: sharding.by_example(self.mesh), self.batch)
        return _placed(state, places), _placed(self.batch, split)


def prepare(config: ConfigDict, objective: Objective, num_images: int) -> Training:
    """Makes the training of an objective on `num_images` an epoch; nothing is compiled yet.

    Raises ValueError for a mesh or a batch that does not fit the devices, and as
    optim.make_optimizer.
    """
    mesh = sharding.make_mesh(config.mesh.model)
    _check_batches(config, mesh)
    batch = batch_shapes(objective.batch, config.batch_size, config.data.image_size)
    optimizer, schedule = optim.make_optimizer(
        config.optimizer, config.num_train_steps, config.batch_size, num_images
    )
    create = partial(train_state.create, objective, optimizer, batch, config.seed)
    places = sharding.of_state(jax.eval_shape(create), mesh, config.shard_state)
    quickly = {"xla_backend_optimization_level": 0}  # it runs once: compiling is all its cost
    step = train_state.make_train_step(
        objective,
        optimizer,
        schedule,
        config.microbatch_size,
        sharding.gather(mesh),
        skip_nonfinite=config.skip_nonfinite > 0,
    )
    return Training(
        objective,
        schedule,
        mesh,
        batch,
        jax.jit(create, out_shardings=places, compiler_options=quickly),
        jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(places, sharding.replicated(mesh)),
            compiler_options=xla.options(),
        ),
    )


def _check_batches(config: ConfigDict, mesh: Mesh) -> None:
    sharding.check_batch(config.batch_size, mesh)
    part = config.microbatch_size
    if not part:
        return
    check_positive(config, ("microbatch_size",))
    sharding.check_batch(part, mesh, "microbatch_size")
    if config.batch_size % part:
        raise ValueError(
            f"config.microbatch_size={part} does not divide config.batch_size={config.batch_size}"
        )


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )

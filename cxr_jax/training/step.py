"""One state holds everything that a step changes; one pure function makes the step.

`prepare` compiles both for the devices.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt32
from ml_collections import ConfigDict

from cxr_jax import xla
from cxr_jax.config import check_positive
from cxr_jax.objectives import Objective, batch_shapes
from cxr_jax.training import microbatch, optim, sharding

COMMON_METRICS = ("loss", "gradient_norm", "parameter_norm", "learning_rate")  # of every step
MUST_BE_FINITE = ("loss", "gradient_norm", "parameter_norm")  # else the training has failed


class TrainState(NamedTuple):
    """step counts finished steps; key never changes: step k draws from fold_in(key, k)."""

    step: Int[Array, ""]
    params: Any
    aux: Any  # batch statistics, target network: what the optimizer does not touch
    opt_state: optax.OptState
    key: UInt32[Array, "2"]


def create_state(
    objective: Objective, optimizer: optax.GradientTransformation, batch: Any, seed: int
) -> TrainState:
    """Returns the state before the first step. `batch` gives shapes only."""
    key = jax.random.PRNGKey(seed)
    init_key, train_key = jax.random.split(key)
    params, aux = objective.init(init_key, batch)
    return TrainState(jnp.zeros((), jnp.int32), params, aux, optimizer.init(params), train_key)


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    microbatch_size: int = 0,
    gather: Callable[[Any, Any], tuple[Any, Any]] = lambda params, aux: (params, aux),
    skip_nonfinite: bool = False,
):
    """Returns a pure `(state, batch) -> (state, metrics)`; jit it with the state donated.

    `microbatch_size` as in microbatch.value_and_grad. `gather` brings parameters and aux that are
    split over devices together for the loss (sharding.gather). With `skip_nonfinite` a step whose
    `MUST_BE_FINITE` are not all finite leaves parameters, aux and optimizer as they were.
    """
    value_and_grad = microbatch.value_and_grad(objective, microbatch_size)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        key = jax.random.fold_in(state.key, state.step)
        whole = gather(state.params, state.aux)
        (loss, (aux, metrics)), gradients = value_and_grad(*whole, batch, key)
        with jax.named_scope("optimizer"):  # so that profiles and benchmarks/aot.py find it
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            aux = objective.after_update(params, aux, state.step)
        metrics = {
            "loss": loss,
            **metrics,
            "gradient_norm": optax.global_norm(gradients),
            "parameter_norm": optax.global_norm(params),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        }
        new = (params, aux, opt_state)
        if skip_nonfinite:
            finite = jnp.isfinite(jnp.stack([metrics[name] for name in MUST_BE_FINITE])).all()
            old = (state.params, state.aux, state.opt_state)
            new = jax.tree.map(partial(jnp.where, finite), new, old)
        return TrainState(state.step + 1, *new, state.key), metrics

    return train_step


class Training(NamedTuple):
    """create: () -> state. step: (state, batch) -> (state, metrics), the state donated."""

    objective: Objective
    schedule: optax.Schedule
    mesh: Mesh
    batch: dict[str, jax.ShapeDtypeStruct]
    create: Any  # both jitted, so that they can be lowered too
    step: Any

    def shapes(self) -> tuple[Any, Any]:
        """Returns (state, batch) as shapes with their places, to compile without running."""
        split = sharding.by_example(self.mesh)
        return self.create.eval_shape(), {
            name: shape.update(sharding=split) for name, shape in self.batch.items()
        }


def estimate_seconds(training: Training, dtype: str) -> float:
    """Estimates how long a step takes on one CPU, before any of it is compiled; right to a factor
    of two: the networks' operations, thrice for the way back, at a convolution's speed, timed here.
    """
    state, batch = training.shapes()
    lowered = jax.jit(training.objective.embed).lower(state.params, state.aux, batch, state.key)
    image, kernel = jnp.ones((8, 64, 56, 56), dtype), jnp.ones((64, 64, 3, 3), dtype)
    convolve = jax.jit(partial(jax.lax.conv, window_strides=(1, 1), padding="SAME"))
    convolve(image, kernel).block_until_ready()
    start = time.monotonic()
    convolve(image, kernel).block_until_ready()
    speed = 2 * image.size * kernel.size / 64 / (time.monotonic() - start)
    return 3 * lowered.cost_analysis()["flops"] / speed


def prepare(config: ConfigDict, objective: Objective, num_images: int) -> Training:
    """Makes the training of an objective on `num_images` an epoch; nothing is compiled yet.

    Raises ValueError for a mesh or a batch that does not fit the devices, and as
    optim.make_optimizer.
    """
    mesh = sharding.make_mesh(config.mesh.model)
    sharding.check_batch(config.batch_size, mesh)
    if part := config.microbatch_size:
        check_positive(config, ("microbatch_size",))
        sharding.check_batch(part, mesh, "microbatch_size")
        if config.batch_size % part:
            whole = f"config.batch_size={config.batch_size}"
            raise ValueError(f"config.microbatch_size={part} does not divide {whole}")
    batch = batch_shapes(objective.batch, config.batch_size, config.data.image_size)
    optimizer, schedule = optim.make_optimizer(
        config.optimizer, config.num_train_steps, config.batch_size, num_images
    )
    create = partial(create_state, objective, optimizer, batch, config.seed)
    places = sharding.of_state(jax.eval_shape(create), mesh, config.shard_state)
    quickly = {"xla_backend_optimization_level": 0}  # it runs once: compiling is all its cost
    step = make_train_step(
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

"""One state holds everything that a step changes; one pure function makes the step."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt32

from cxr_jax.objectives import Objective
from cxr_jax.training import microbatch

COMMON_METRICS = ("loss", "gradient_norm", "parameter_norm", "learning_rate")  # of every step
MUST_BE_FINITE = ("loss", "gradient_norm", "parameter_norm")  # else the training has failed


class TrainState(NamedTuple):
    """step counts finished steps; key never changes: step k draws from fold_in(key, k)."""

    step: Int[Array, ""]
    params: Any
    aux: Any  # batch statistics, target network: what the optimizer does not touch
    opt_state: optax.OptState
    key: UInt32[Array, "2"]


def create(
    objective: Objective, optimizer: optax.GradientTransformation, batch: Any, seed: int
) -> TrainState:
    """The state before the first step. `batch` gives shapes only."""
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
    """A pure `(state, batch) -> (state, metrics)`; jit it with the state donated.

    `microbatch_size` as in microbatch.value_and_grad. `gather` brings parameters and aux that are
    split over devices together for the loss (sharding.gather). With `skip_nonfinite` a step whose
    `MUST_BE_FINITE` are not all finite leaves parameters, aux and optimizer as they were.
    """
    value_and_grad = microbatch.value_and_grad(objective, microbatch_size)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
        key = jax.random.fold_in(state.key, state.step)
        whole = gather(state.params, state.aux)
        (loss, (aux, metrics)), gradients = value_and_grad(*whole, batch, key)
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

"""Self-supervised objectives, one file each: `build(config)` -> pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxr_jax import plugins
from cxr_jax.fields import Section


class Objective(NamedTuple):
    """What a training loop needs to know of an objective; every function is pure.

    batch = {"image": UInt8 [b h w 1]}; params = {"encoder": …, "projector": …, …};
    aux = {"batch_stats": {"encoder": …, …}, …} is what changes without the optimizer.
    outputs = a tree of arrays [b …], row i being image i's, with all that the loss needs of an image.
    metrics are float32 scalars.

    The loss stands in two functions, because only the second needs the whole batch: a batch too
    large for the device is embedded in parts (microbatch.py). Both hand aux on, because each has
    something to keep that only it knows: embed the batch statistics, compare what outlives a batch
    of outputs (MoCo's queue, DINO's centre). Outputs must not depend on what embed itself changes,
    so that parts embedded one after the other are as parts embedded at once.
    """

    init: Callable[..., Any]  # (key, batch) -> (params, aux)
    embed: Callable[..., Any]  # (params, aux, batch, key) -> (outputs, aux)
    compare: Callable[..., Any]  # (outputs, aux) -> (loss, (aux, metrics))
    after_update: Callable[..., Any]  # (new params, aux, step just made from 0) -> aux
    features: Callable[..., Any]  # (params, aux, images float [b h w 1]) -> [b d]
    # What its user can do when embeddings collapse; "" where that cannot be, as in reconstruction.
    against_collapse: str = "lower config.optimizer.learning_rate, or raise config.batch_size"

    def loss(self, params: Any, aux: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        """(loss, (aux, metrics)) of a batch."""
        outputs, aux = self.embed(params, aux, batch, key)
        return self.compare(outputs, aux)


def build(config: Section) -> Objective:
    """`cxr_jax.objectives.<config.objective.name>.make(config)`.

    Raises ValueError for a name that is no objective of this folder, naming those it holds.
    """
    make = plugins.find(__name__, config["objective"]["name"], "make", "objective")
    return make(config)


def export_encoder(params: Any, aux: Any) -> dict[str, Any]:
    """The encoder's variables alone: what a pretraining is made for.

    Those of aux["teacher"] where there is one: DINO's teacher is better than its student.
    """
    source = aux.get("teacher") or {"params": params, "batch_stats": aux["batch_stats"]}
    return {name: source[name]["encoder"] for name in ("params", "batch_stats")}


def l2_normalise(embeddings: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of length one, float32; a zero row stays zero and has a finite gradient."""
    embeddings = embeddings.astype(jnp.float32)
    square = jnp.sum(embeddings**2, axis=1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(square, 1e-12))

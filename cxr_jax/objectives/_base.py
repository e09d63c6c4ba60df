"""What an objective is: a few pure functions, and what they need and give, declared beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Field(NamedTuple):
    """What a batch holds under one name: of every image an array of this shape and type.

    shape None: an image of config.data.image_size, of which the reader gives the row in the source.
    """

    shape: tuple[int, ...] | None
    dtype: Any


IMAGE = Field(None, np.uint8)


def online_encoder(params: Any, aux: Any) -> dict[str, Any]:
    """Returns the encoder's variables that the optimizer trains."""
    return {"params": params["encoder"], "batch_stats": aux["batch_stats"]["encoder"]}


def no_change(params: Any, aux: Any, step: Any) -> Any:
    """Returns aux: the `after_update` of an objective in which nothing follows the optimizer."""
    return aux


class Objective(NamedTuple):
    """What a training needs to know of an objective; every function is pure.

    params = {"encoder": …, "projector": …, …}; aux = {"batch_stats": {"encoder": …, …}, …} is what
    changes without the optimizer. outputs = a tree of arrays [b …], row i being image i's, with all
    that the loss needs of an image. Metrics are float32 scalars.

    The loss is two functions, because only the second needs the whole batch: a batch too large for
    the device is embedded in parts (training/microbatch.py). Both return aux, because each changes
    a part of it: `embed` the batch statistics, `loss_from_outputs` what outlives a batch of outputs
    (MoCo's queue, DINO's centre). Outputs must not depend on what embed itself changes, so that
    parts embedded one after the other are as parts embedded at once.
    """

    init: Callable[..., Any]  # (key, batch) -> (params, aux)
    embed: Callable[..., Any]  # (params, aux, batch, key) -> (outputs, aux)
    loss_from_outputs: Callable[..., Any]  # (outputs, aux) -> (loss, (aux, metrics))
    after_update: Callable[..., Any]  # (new params, aux, step just made from 0) -> aux
    features: Callable[..., Any]  # (params, aux, images float [b h w 1]) -> [b d]
    # Declared: the names of the metrics, and what the batch holds.
    metrics: Sequence[str] = ()
    batch: Mapping[str, Field] = {"image": IMAGE}
    # Opens the fields of `batch` beside "image": (source, workdir) -> data.loader.Fields.
    open_fields: Callable[..., Any] | None = None
    # The encoder that a pretraining is made for: (params, aux) -> {"params", "batch_stats"}.
    exported: Callable[[Any, Any], dict[str, Any]] = online_encoder
    # What a user can do when embeddings collapse; "" where that cannot be, as in reconstruction.
    collapse_advice: str = "lower config.optimizer.learning_rate, or raise config.batch_size"

    def loss(self, params: Any, aux: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        """Returns (loss, (aux, metrics)) of a batch."""
        outputs, aux = self.embed(params, aux, batch, key)
        return self.loss_from_outputs(outputs, aux)


def batch_shapes(
    fields: Mapping[str, Field], batch_size: int, image_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch with these fields.

    >>> from cxr_jax.objectives import IMAGE, Field, batch_shapes
    >>> shapes = batch_shapes({"image": IMAGE, "age": Field((), "float32")}, 8, 64)
    >>> shapes["image"].shape, shapes["age"].shape
    ((8, 64, 64, 1), (8,))
    """
    image = (image_size, image_size, 1)
    return {
        name: jax.ShapeDtypeStruct(
            (batch_size, *(image if field.shape is None else field.shape)), field.dtype
        )
        for name, field in fields.items()
    }


def l2_normalise(embeddings: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Returns rows of length one, float32; a zero row stays zero and has a finite gradient.

    >>> jnp.linalg.norm(l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0]])), axis=1).tolist()
    [1.0, 0.0]
    """
    embeddings = embeddings.astype(jnp.float32)
    square = jnp.sum(embeddings**2, axis=1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(square, 1e-12))

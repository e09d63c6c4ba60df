"""Self-supervised objectives, one file each: `build(config)` -> pure functions.

`Objective` holds the functions, and declares beside them what they need and give.
Fields of config.objective:

name  a file of cxr_jax/objectives; the file says the others
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cxr_jax import plugins
from cxr_jax.config import Section


class Field(NamedTuple):
    """The shape and type of one array that a batch holds for every image.

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
    """The pure functions that a training calls, and what they need and give.

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
    # Opens the fields of `batch` beside "image": (source, workdir) -> data.order.Fields.
    open_fields: Callable[..., Any] | None = None
    # The encoder that a pretraining is made for: (params, aux) -> {"params", "batch_stats"}.
    exported: Callable[[Any, Any], dict[str, Any]] = online_encoder
    # The text tower and its heads beside it, of image-text objectives (weights/text.py): the same.
    text: Callable[[Any, Any], dict[str, Any]] | None = None
    # What a user can do when embeddings collapse; "" where that cannot be, as in reconstruction.
    collapse_advice: str = "lower config.optimizer.learning_rate, or raise config.batch_size"

    def loss(self, params: Any, aux: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        """Returns (loss, (aux, metrics)) of a batch."""
        outputs, aux = self.embed(params, aux, batch, key)
        return self.loss_from_outputs(outputs, aux)


def build(config: Section) -> Objective:
    """Returns `cxr_jax.objectives.<config.objective.name>.make(config)`.

    Raises ValueError for a name that is no objective of this folder, naming those it holds.
    """
    return plugins.find(__name__, config["objective"]["name"], "make", "objective")(config)


def batch_shapes(
    fields: Mapping[str, Field], batch_size: int, image_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch with these fields.

    >>> shapes = batch_shapes({"image": IMAGE, "age": Field((), "float32")}, 8, 64)
    >>> shapes["image"].shape, shapes["age"].shape
    ((8, 64, 64, 1), (8,))
    """
    shapes = {}
    for name, (shape, dtype) in fields.items():
        shape = (image_size, image_size, 1) if shape is None else shape
        shapes[name] = jax.ShapeDtypeStruct((batch_size, *shape), dtype)
    return shapes


def l2_normalise(embeddings: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Returns rows of length one, float32; a zero row stays zero and has a finite gradient.

    >>> jnp.linalg.norm(l2_normalise(jnp.array([[3.0, 4.0], [0.0, 0.0]])), axis=1).tolist()
    [1.0, 0.0]
    """
    embeddings = embeddings.astype(jnp.float32)
    square = jnp.sum(embeddings**2, axis=1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(square, 1e-12))

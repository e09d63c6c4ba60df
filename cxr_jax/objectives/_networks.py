"""Encoder and heads run one after the other, with their variables kept apart by name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from cxr_jax import models
from cxr_jax.augment.views import check_view
from cxr_jax.config import Section
from cxr_jax.models._heads import MLP
from cxr_jax.objectives import online_encoder

Chain = dict[str, nn.Module]  # "encoder" first; each module reads what the one before it gave


def encoder_and_heads(config: Section, **heads: dict[str, Any]) -> Chain:
    """The encoder of config.model, then MLPs that compute in the encoder's dtype."""
    encoder = models.build(config["model"])
    dtype = getattr(encoder, "dtype", "float32")
    return {"encoder": encoder} | {
        name: MLP(**fields, dtype=dtype) for name, fields in heads.items()
    }


def init(key: PRNGKeyArray, chain: Chain, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(params, batch_stats), each by module name, for images of `size` pixels a side."""
    params, batch_stats = {}, {}
    x = jnp.zeros((1, size, size, 1))
    for module_key, (name, module) in zip(jax.random.split(key, len(chain)), chain.items()):
        x, variables = module.init_with_output(module_key, x, train=False)
        params[name] = variables.get("params", {})
        batch_stats[name] = variables.get("batch_stats", {})
    return params, batch_stats


def apply(
    chain: Chain, params: Any, batch_stats: Any, images: Float[Array, "b *shape"]
) -> tuple[dict[str, Float[Array, "b d"]], dict[str, Any]]:
    """Training mode: (every module's output, new batch_stats), by name.

    `params` and `batch_stats` may hold modules that `chain` lacks; their statistics are kept.
    """
    outputs, new_stats, x = {}, dict(batch_stats), images
    for name, module in chain.items():
        variables = {"params": params[name], "batch_stats": batch_stats[name]}
        x, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
        outputs[name] = x
        new_stats[name] = updated.get("batch_stats", {})
    return outputs, new_stats


def apply_in_groups(
    chain: Chain, params: Any, batch_stats: Any, images: Float[Array, "b h w 1"], size: int
) -> tuple[dict[str, Float[Array, "b d"]], dict[str, Any]]:
    """As `apply`, but batch norm takes its statistics from groups of `size` consecutive images.

    The groups are the same however many devices share the batch; where devices hold whole groups,
    their statistics need no communication. The running statistics take the groups' mean.
    """
    groups = images.reshape(-1, size, *images.shape[1:])
    outputs, new_stats = jax.vmap(lambda group: apply(chain, params, batch_stats, group))(groups)
    return (
        jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs),
        jax.tree.map(lambda x: x.mean(axis=0), new_stats),
    )


def ema_update(target: Any, params: Any, rate: Float[Array, ""] | float) -> Any:
    """Moves an exponential moving average: the target's modules go the share `rate` of the way to those of `params`."""
    online = {name: params[name] for name in target}
    return jax.tree.map(lambda old, new: old + rate * (new - old), target, online)


def features(
    chain: Chain,
    params: Any,
    aux: Any,
    images: Float[Array, "b h w 1"],
    exported: Callable[[Any, Any], dict[str, Any]] = online_encoder,
) -> Float[Array, "b d"]:
    """The exported encoder in evaluation mode: an image's features do not depend on its batch."""
    return chain["encoder"].apply(exported(params, aux), images, train=False)


def two_views(config: Section) -> tuple[Section, Section]:
    """config.views, a mapping by name (or a sequence) of two views, checked, in order.

    Raises ValueError unless there are two and `check_view` takes both.
    """
    views = config["views"]
    if not isinstance(views, Section):
        views = dict(enumerate(views))
    if len(views) != 2:
        raise ValueError(f"config.views holds {len(views)} views; this objective needs two")
    for name, view in views.items():
        check_view(view, f"config.views.{name}")
    first, second = views.values()
    return first, second


def widths(hidden: int | tuple[int, ...]) -> tuple[int, ...]:
    """A head's hidden widths; a single number is one layer."""
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)

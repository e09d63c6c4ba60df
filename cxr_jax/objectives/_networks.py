"""Encoder and heads run one after the other, with their variables kept apart by name.

Below: signs of collapse, measured on a batch of embeddings.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.scipy.special import entr
from jaxtyping import Array, Float, PRNGKeyArray

from cxr_jax import models
from cxr_jax.augment.views import augment_view, check_view
from cxr_jax.config import Section
from cxr_jax.models._layers import MLP
from cxr_jax.objectives import Objective, l2_normalise, no_change, online_encoder

COLLAPSE_METRICS = ("embedding_std", "effective_rank")  # what `collapse_metrics` gives

Chain = dict[str, nn.Module]  # "encoder" first; each module reads what the one before it gave


def encoder_and_heads(config: Section, **heads: dict[str, Any]) -> Chain:
    """Returns the encoder of config.model, then MLPs that compute in the encoder's dtype.

    `heads`: fields of each MLP; its "hidden" and "out" are config.objective's unless given.
    """
    chain = {"encoder": models.build(config["model"])}
    dtype = getattr(chain["encoder"], "dtype", "float32")
    for name, fields in heads.items():
        missing = [size for size in ("hidden", "out") if size not in fields]
        fields = fields | {size: config["objective"][size] for size in missing}
        chain[name] = MLP(**fields | {"hidden": widths(fields["hidden"])}, dtype=dtype)
    return chain


def init(key: PRNGKeyArray, chain: Chain, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (params, batch_stats), each by module name, for images of `size` pixels a side."""
    params, batch_stats = {}, {}
    x = jnp.zeros((1, size, size, 1))
    for module_key, (name, module) in zip(jax.random.split(key, len(chain)), chain.items()):
        x, variables = module.init_with_output(module_key, x, train=False)
        params[name] = variables.get("params", {})
        batch_stats[name] = variables.get("batch_stats", {})
    return params, batch_stats


def first_state(chain: Chain, size: int, key: PRNGKeyArray, batch: Any) -> tuple[Any, Any]:
    """Does what `Objective.init` does where aux is batch statistics alone."""
    params, batch_stats = init(key, chain, size)
    return params, {"batch_stats": batch_stats}


def apply(
    chain: Chain, params: Any, batch_stats: Any, images: Float[Array, "b *shape"]
) -> tuple[dict[str, Float[Array, "b d"]], dict[str, Any]]:
    """Returns (every module's output, new batch_stats), by name, in training mode.

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
    """Does what `apply` does, with batch norm's statistics from groups of `size` images each.

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
    """Moves the target's modules the share `rate` of the way to those of `params`.

    >>> ema_update({"encoder": 1.0}, {"encoder": 2.0, "projector": 5.0}, 0.25)
    {'encoder': 1.25}
    """
    online = {name: params[name] for name in target}
    return jax.tree.map(lambda old, new: old + rate * (new - old), target, online)


def features(
    chain: Chain,
    params: Any,
    aux: Any,
    images: Float[Array, "b h w 1"],
    exported: Callable[[Any, Any], dict[str, Any]] = online_encoder,
) -> Float[Array, "b d"]:
    """Runs the exported encoder in evaluation mode: features do not depend on the batch."""
    return chain["encoder"].apply(exported(params, aux), images, train=False)


def two_views(config: Section) -> tuple[Section, Section]:
    """Returns config.views, two by name, in order; ValueError for what `check_view` refuses."""
    views = config["views"]
    if not isinstance(views, Section):
        views = dict(enumerate(views))
    if len(views) != 2:
        raise ValueError(f"config.views holds {len(views)} views; this objective needs two")
    for name, view in views.items():
        check_view(view, f"config.views.{name}")
    return tuple(views.values())


def widths(hidden: int | tuple[int, ...]) -> tuple[int, ...]:
    """Returns a head's hidden widths; a single number is one layer."""
    return (hidden,) if isinstance(hidden, int) else tuple(hidden)


def siamese(
    chain: Chain,
    views: tuple[Section, Section],
    kept: Sequence[str],
    loss_from_outputs: Callable[..., Any],
    metrics: Sequence[str] = (),
) -> Objective:
    """Returns the objective whose outputs are {"a": …, "b": …}, each the modules `kept` of a view.

    One network embeds both views and nothing else is kept. One forward pass per view, so that batch
    norm never mixes the views; the running statistics take view a, then view b.
    """

    def embed(params, aux, batch, key):
        batch_stats, outputs = aux["batch_stats"], {}
        for name, view_key, view in zip("ab", jax.random.split(key), views):
            images = augment_view(view_key, batch["image"], view)
            given, batch_stats = apply(chain, params, batch_stats, images)
            outputs[name] = {module: given[module] for module in kept}
        return outputs, aux | {"batch_stats": batch_stats}

    metrics = (*COLLAPSE_METRICS, *metrics)
    start = partial(first_state, chain, views[0]["size"])
    return Objective(start, embed, loss_from_outputs, no_change, partial(features, chain), metrics)


def embedding_std(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns the spread of the directions: 1 when isotropic, 0 when all are equal.

    The standard deviation over the batch of each dimension of the l2-normalised embeddings, mean
    over dimensions, times sqrt(d) (Chen and He, SimSiam, arXiv:2011.10566, section 4.1).
    """
    return l2_normalise(embeddings).std(axis=0).mean() * jnp.sqrt(embeddings.shape[1])


def effective_rank(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns how many directions the embeddings use, from 1 to min(n - 1, d).

    The participation ratio tr(C)^2 / tr(C^2) of the embedding covariance C. It sees the collapse
    to a few dimensions that `embedding_std` misses.

    >>> effective_rank(jnp.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])).item()
    2.0
    >>> effective_rank(jnp.ones((4, 2))).item()  # all embeddings are equal
    1.0
    """
    embeddings = embeddings.astype(jnp.float32)
    centred = embeddings - embeddings.mean(axis=0)
    n, d = centred.shape
    # X^T X and X X^T have the same trace and Frobenius norm: take the smaller.
    gram = centred.T @ centred if d <= n else centred @ centred.T
    total, square = jnp.trace(gram), jnp.sum(gram**2)
    rounding = 1e-12 * jnp.sum(embeddings**2)
    spread = total > rounding
    return jnp.where(spread, total**2 / jnp.where(spread, square, 1), 1.0)


def collapse_metrics(projections: Float[Array, "n d"]) -> dict[str, Float[Array, ""]]:
    """Returns both, of the projections' directions, which is all that a cosine loss sees."""
    return {
        "embedding_std": embedding_std(projections),
        "effective_rank": effective_rank(l2_normalise(projections)),
    }


def assignment_metrics(probabilities: Float[Array, "*n k"]) -> dict[str, Float[Array, ""]]:
    """Returns the two collapses of a clustering head (DINO, arXiv:2104.14294, section 5.3).

    "target_entropy", of one assignment, mean over them, in nats: log k where the head collapsed to
    the uniform assignment. "prototypes_used": exp of the entropy of the mean assignment, from 1,
    where all images have the same prototype, to k.
    """
    mean = probabilities.reshape(-1, probabilities.shape[-1]).mean(axis=0)
    return {
        "target_entropy": entr(probabilities).sum(axis=-1).mean(),
        "prototypes_used": jnp.exp(entr(mean).sum()),
    }

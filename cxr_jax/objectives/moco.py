"""MoCo v2: a query finds its key among those of past batches, embedded by a slow copy of itself.

He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv:1911.05722;
Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv:2003.04297; and their
official code. Fields of config.objective:

temperature  by which cosines are divided; .2
hidden       the projector's hidden width; 2048
out          what it gives; 128
queue_size   how many keys of past images a query is compared with; 65536
momentum     decay of the moving average that embeds the keys; .999
bn_group     images that batch norm takes its statistics from; 32

Shuffling batch norm (section 3.3 of the first paper). Were a query and its key normalised with the
statistics of the same images, the network could tell the key by those, since the queue's keys were
normalised with others. So batch norm takes its statistics from groups of bn_group images (the
papers' share of one GPU), whatever the number of devices, and keys are embedded in a random order.
One group for the whole batch would undo this and is refused.

The queue starts empty, and what is empty is compared with nothing. The official code starts it with
random directions, which push no image away from another: until keys have replaced them, queries
and keys agree by all going one way. Those are 256 of the paper's million steps, and could be half
of a short training (docs/results/study_trials.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jaxtyping import Array, Float, Int

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section, check_fields, check_positive, check_values
from cxr_jax.objectives import Objective, _networks, l2_normalise

_TOO_LOW = -1e9  # not infinite: the first step, with no negative at all, has a gradient of zero
_FIELDS = ("temperature", "hidden", "out", "queue_size", "momentum", "bn_group")


def similarities(
    query: Float[Array, "n d"], key: Float[Array, "n d"], queue: Float[Array, "q d"]
) -> tuple[Float[Array, "n"], Float[Array, "n q"]]:
    """Returns cosines of each query to its key and to the queue, whose rows have length one.

    To a row of zeros, which no key has filled yet, it is too low to count.
    """
    query, key = l2_normalise(query), jax.lax.stop_gradient(l2_normalise(key))
    # Full float32: the temperature would magnify tf32's rounding.
    negatives = jnp.matmul(query, queue.T, precision=jax.lax.Precision.HIGHEST)
    filled = jnp.any(queue != 0, axis=1)
    return jnp.sum(query * key, axis=1), jnp.where(filled, negatives, _TOO_LOW)


def info_nce(
    positive: Float[Array, "n"], negatives: Float[Array, "n q"], temperature: float
) -> Float[Array, ""]:
    """Returns the cross entropy of the key against the queue (eq. 1), mean over queries, float32.

    >>> round(info_nce(jnp.ones(2), jnp.ones((2, 4)), 0.2).item(), 3)  # all equal: log(q + 1)
    1.609
    """
    contrast = jax.nn.logsumexp(negatives / temperature, axis=1) - positive / temperature
    return jax.nn.softplus(contrast).mean()


def enqueue(
    queue: Float[Array, "q d"], place: Int[Array, ""], keys: Float[Array, "n d"]
) -> tuple[Float[Array, "q d"], Int[Array, ""]]:
    """Returns (queue, next place): the keys, of length one, replace the oldest, in order."""
    rows = (place + jnp.arange(keys.shape[0])) % queue.shape[0]
    return queue.at[rows].set(keys, unique_indices=True), (rows[-1] + 1) % queue.shape[0]


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    return with_keys_of(config, "image")


def with_keys_of(config: Section, originals: str) -> Objective:
    """Returns MoCo with queries from views of batch["image"] and keys from batch[originals]."""
    fields = config["objective"]
    _check(config)
    views = _networks.two_views(config)
    projector = {"hidden_bn": False, "out_bias": True}
    chain = _networks.encoder_and_heads(config, projector=projector)
    project = partial(_networks.apply_in_groups, chain, size=fields["bn_group"])

    def init(key, batch):
        params, batch_stats = _networks.init(key, chain, views[0]["size"])
        return params, {
            "batch_stats": batch_stats,
            # A copy: a state in which two leaves are one buffer cannot be donated.
            "target": jax.tree.map(jnp.copy, params),
            "queue": jnp.zeros((fields["queue_size"], fields["out"])),
            "place": jnp.zeros((), jnp.int32),
        }

    def embed(params, aux, batch, key):
        query_key, key_key, order_key = jax.random.split(key, 3)
        images = augment_view(query_key, batch["image"], views[0])
        queries, batch_stats = project(params, aux["batch_stats"], images)
        order = jax.random.permutation(order_key, images.shape[0])
        # Images, not views, change places: they are bytes, and may come from another device. They
        # lie on the devices as before, else each would compute the keys of all.
        _, images = shard_alike(batch[originals], batch[originals][order])
        images = augment_view(key_key, images, views[1])
        # Of the target nothing but its output is used: it never runs in evaluation mode.
        keys, _ = project(aux["target"], aux["batch_stats"], images)
        outputs = {"query": queries["projector"], "key": keys["projector"][jnp.argsort(order)]}
        return outputs, aux | {"batch_stats": batch_stats}

    def loss_from_outputs(outputs, aux):
        positive, negatives = similarities(outputs["query"], outputs["key"], aux["queue"])
        metrics = _networks.collapse_metrics(outputs["query"]) | {
            "contrastive_accuracy": (positive > negatives.max(axis=1)).mean(dtype=jnp.float32)
        }
        keys = jax.lax.stop_gradient(l2_normalise(outputs["key"]))
        queue, place = enqueue(aux["queue"], aux["place"], keys)
        value = info_nce(positive, negatives, fields["temperature"])
        return value, (aux | {"queue": queue, "place": place}, metrics)

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        return aux | {"target": _networks.ema_update(aux["target"], params, 1 - fields["momentum"])}

    features = partial(_networks.features, chain)
    metrics = (*_networks.COLLAPSE_METRICS, "contrastive_accuracy")
    return Objective(init, embed, loss_from_outputs, after_update, features, metrics)


def _check(config: Section) -> None:
    fields, batch_size = config["objective"], config["batch_size"]
    check_fields(fields, "config.objective", ("name", *_FIELDS))
    check_values(
        *(fields, "config.objective"),
        ("temperature", fields["temperature"] > 0, "above 0"),
        ("momentum", 0 <= fields["momentum"] <= 1, "in [0, 1]"),
    )
    check_positive(config, ("objective.queue_size", "objective.bn_group"))
    if fields["queue_size"] < batch_size:
        raise ValueError(
            f"config.objective.queue_size={fields['queue_size']} is smaller than "
            f"config.batch_size={batch_size}: keys of one batch would overwrite each other"
        )
    part, group = config["microbatch_size"] or batch_size, fields["bn_group"]
    if part % group or part == group:
        fitting = ", ".join(str(size) for size in range(2, part) if part % size == 0)
        raise ValueError(
            f"config.objective.bn_group={group} must divide the {part} images that are embedded at "
            "a time (config.microbatch_size or batch_size) into two groups or more: in one group "
            "batch norm tells a query its key. "
            + (f"Fitting: {fitting}" if fitting else "None fits: take a larger batch")
        )

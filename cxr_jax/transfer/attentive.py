"""Attentive probe: per label one learned query looks over the frozen map, and what it finds scores.

Cross attention as in the attentive probes of AIM (arXiv:2401.08541) and V-JEPA (arXiv:2404.08471),
without a projection of keys and values: a query's product with the keys' projection is one vector
of the map's width, and the score is linear in the values. So a label has two vectors and a bias,
and its score is a sum over places (`parts`), which says where it comes from. The query starts at 0,
where the probe is a logistic regression on the mean of the map.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from jaxtyping import Array, Float

from cxr_jax.config import Section
from cxr_jax.stats.bootstrap import label_auroc
from cxr_jax.transfer import _heads
from cxr_jax.transfer._protocol import (
    Protocol,
    Result,
    Splits,
    Tools,
    against,
    at_labels,
    targets_of,
    usable_labels,
)
from cxr_jax.weights.encoder import Encoder


class Probe(NamedTuple):
    """Of k labels and maps of d channels."""

    query: Float[Array, "k d"]
    kernel: Float[Array, "k d"]
    bias: Float[Array, " k"]


class Fitted(NamedTuple):
    """A probe of the u labels that could be fitted, and how its maps are standardised."""

    probe: Probe
    standard: _heads.Standard
    heads: int
    labels: np.ndarray
    not_scored: dict[int, str]
    best: list[_heads.Best]
    grid: _heads.Grid


def make(config: Section) -> Protocol:
    """Returns the protocol "attentive"; of the config it reads dense and seed."""
    _heads.check(config)

    def method(exclusive: bool) -> tuple[str, ...]:
        softmax = " under a softmax over the classes" if exclusive else ""
        heads = config["dense"]["heads"]
        what = f"One learned query per label ({heads} heads), a linear score of what it attends to"
        return (_heads.told(config, what + softmax), *against(exclusive))

    names = ("learning_rates", "weight_decays", "warmup", "epochs", "min_steps", "max_steps")
    names += ("evaluations", "batch_size", "heads")
    settings = {name: config["dense"][name] for name in names} | {"seed": config["seed"]}
    settings |= {name: list(settings[name]) for name in names[:2]}
    return Protocol("Attentive probe", method, settings, partial(_run, config))


def _run(config: Section, encoder: Encoder, splits: Splits, tools: Tools) -> Result:
    names, exclusive = splits.test.label_names, splits.test.task.exclusive
    fitted = fit(config, splits, tools)
    test = tools.maps("test")
    apply = jax.jit(lambda maps: scores(fitted.probe, fitted.standard(maps), fitted.heads))
    found = np.concatenate(list(_heads.chunks(test, apply)))
    found = found.astype(np.float64)
    if exclusive:
        found = scipy.special.log_softmax(found, axis=1)
    shape = test.shape[1:]
    chosen = [names[k] for k in fitted.labels[: len(fitted.best)]] if not exclusive else ["all"]
    facts = {
        name: {"learning_rate": one.rate, "weight_decay": one.decay, "step": one.step}
        for name, one in zip(chosen, fitted.best, strict=True)
    }
    mean = np.mean([one.score for one in fitted.best])
    remark = _heads.at_the_edge(fitted.best, fitted.grid)
    return Result(
        scores=at_labels(found, fitted.labels, len(names)),
        not_scored=fitted.not_scored,
        summary=f"maps of {' x '.join(map(str, shape))} at {encoder.image_size} px, validation "
        f"macro AUROC {mean:.3f}",
        facts={"map": list(shape), "chosen": facts},
        score_kind="log-probability" if exclusive else "log-odds",
        remarks=(remark,) if remark else (),
    )


def fit(config: Section, splits: Splits, tools: Tools) -> Fitted:
    """Fits a probe on the training maps, chosen on validation by label, or for exclusive classes.

    Raises ValueError where no label can be scored, or the channels cannot be parted into heads.
    """
    exclusive, names = splits.test.task.exclusive, splits.test.label_names
    known = splits.train.targets, splits.validation.targets
    labels, not_scored = usable_labels(*known, names, exclusive)
    targets, truth = (targets_of(one, labels, exclusive).astype(np.float32) for one in known)
    train, validation = (tools.maps(name) for name in Splits._fields[:2])
    heads, width = config["dense"]["heads"], train.shape[-1]
    if width % heads:
        raise ValueError(
            f"config.dense.heads={heads} does not part the {width} channels of the map evenly; "
            f"try {math.gcd(heads, width)}"
        )
    rows = np.flatnonzero(~np.isnan(targets).all(axis=1))
    measured = _heads.standard(train.at(rows))
    grid = _heads.make_grid(config, len(rows))

    @jax.jit
    def together(probes: Probe, maps: Array) -> Float[Array, "g b k"]:
        given = measured(maps)
        return jax.vmap(lambda probe: scores(probe, given, heads))(probes)

    def loss(probe: Probe, batch: tuple[Array, Array]) -> Float[Array, ""]:
        logits = scores(probe, measured(batch[0]), heads)
        return _loss(logits, batch[1], exclusive)

    def judge(probes: Probe) -> Float[np.ndarray, "g c"]:
        found = _heads.chunks(validation, partial(together, probes))
        logits = np.concatenate(list(found), axis=1)
        fine = np.isfinite(logits).all(axis=(1, 2))
        found = [label_auroc(truth, one if ok else 0 * truth) for one, ok in zip(logits, fine)]
        found = np.where(fine[:, None], found, np.nan)
        return found.mean(axis=1, keepdims=True) if exclusive else found

    feed = (
        (train.take(rows[batch]), targets[rows[batch]])
        for batch in _heads.order(len(rows), grid.planned.batch_size, config["seed"])
    )
    zeros = np.zeros((len(labels), width), np.float32)
    start = Probe(zeros, zeros, np.zeros(len(labels), np.float32))
    best = _heads.search(start, loss, feed, judge, grid, tools, "macro AUROC")
    probe = best[0].params
    if not exclusive:  # each label its own rate, decay and moment
        each = zip(*(one.params for one in best))
        probe = Probe(*(np.stack([leaf[k] for k, leaf in enumerate(held)]) for held in each))
    return Fitted(probe, measured, heads, labels, not_scored, best, grid)


def parts(probe: Probe, maps: Float[Array, "b h w d"], heads: int) -> Float[Array, "b h w k"]:
    """Returns what each place adds to each label's score; their sum and the bias are the score.

    Each head attends by softmax over places of the scaled product of query and map in its share of
    the channels (arXiv:1706.03762, eq. 1), and contributes its values' product with the kernel.
    """
    batch, rows, columns, width = maps.shape
    share = width // heads
    x = maps.reshape(batch, rows * columns, heads, share)
    query, kernel = (part.reshape(-1, heads, share) for part in (probe.query, probe.kernel))
    attention = jnp.einsum("bnhc,khc->bnhk", x, query, precision="highest") / math.sqrt(share)
    values = jnp.einsum("bnhc,khc->bnhk", x, kernel, precision="highest")
    added = (jax.nn.softmax(attention, axis=1) * values).sum(axis=2)
    return added.reshape(batch, rows, columns, -1)


def scores(probe: Probe, maps: Float[Array, "b h w d"], heads: int) -> Float[Array, "b k"]:
    """Returns the labels' scores, log-odds.

    >>> probe = Probe(np.zeros((1, 4)), np.ones((1, 4)), np.zeros(1))
    >>> scores(probe, jnp.full((2, 3, 3, 4), 0.5), heads=2).tolist()
    [[2.0], [2.0]]
    """
    return parts(probe, maps, heads).sum(axis=(1, 2)) + probe.bias


def _loss(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"], exclusive: bool
) -> Float[Array, ""]:
    known = ~jnp.isnan(targets)
    truth = jnp.where(known, targets, 0)
    if exclusive:
        cells = -truth * jax.nn.log_softmax(logits, axis=1)
        return cells.sum() / jnp.maximum(known[:, 0].sum(), 1)
    cells = jnp.where(known, optax.sigmoid_binary_cross_entropy(logits, truth), 0)
    # By label, because a label's probe is chosen for itself: others must not set its rate.
    return (cells.sum(axis=0) / jnp.maximum(known.sum(axis=0), 1)).sum()

"""Objectives in which one network embeds both views and nothing else needs keeping."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from cxr_jax.augment.views import augment_view
from cxr_jax.config import Section
from cxr_jax.objectives import Objective, _collapse, _networks, no_change


def objective(
    chain: _networks.Chain,
    views: tuple[Section, Section],
    kept: Sequence[str],
    loss_from_outputs: Callable[..., Any],
    metrics: Sequence[str] = (),
) -> Objective:
    """The objective whose outputs are {"a": …, "b": …}, each the modules `kept` of one view.

    One forward pass per view, so that batch norm never mixes the views; the running statistics
    take view a, then view b.
    """

    def init(key, batch):
        params, batch_stats = _networks.init(key, chain, views[0]["size"])
        return params, {"batch_stats": batch_stats}

    def embed(params, aux, batch, key):
        batch_stats, outputs = aux["batch_stats"], {}
        for name, view_key, view in zip("ab", jax.random.split(key), views):
            images = augment_view(view_key, batch["image"], view)
            given, batch_stats = _networks.apply(chain, params, batch_stats, images)
            outputs[name] = {module: given[module] for module in kept}
        return outputs, aux | {"batch_stats": batch_stats}

    features = partial(_networks.features, chain)
    metrics = (*_collapse.METRICS, *metrics)
    return Objective(init, embed, loss_from_outputs, no_change, features, metrics)

"""Trains a part of the parameters: the rest lies in aux, where no optimizer sees it.

What stays has no gradient and no place in the optimizer. With its stem and first two stages frozen
a ResNet-50's step of MoCo takes half of the time on a CPU (docs/results/study_trials.md).
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from cxr_jax import models, objectives
from cxr_jax.objectives import Objective

BASE = "base"  # in aux


def train_part(
    objective: Objective, split: Callable[..., Any], join: Callable[[Any, Any], Any]
) -> Objective:
    """Returns the objective that trains the first of `split(key, params)`; the second stays.

    join(trained, rest) gives the parameters as `objective` has them, which targets follow.
    """

    def init(key, batch):
        params, aux = objective.init(key, batch)
        trained, rest = split(key, params)
        return trained, aux | {BASE: rest}

    def apart(params: Any, aux: Any) -> tuple[Any, Any, Any]:
        inner = {name: part for name, part in aux.items() if name != BASE}
        return join(params, aux[BASE]), inner, {BASE: aux[BASE]}

    def embed(params, aux, batch, key):
        whole, aux, base = apart(params, aux)
        outputs, aux = objective.embed(whole, aux, batch, key)
        return outputs, aux | base

    def loss_from_outputs(outputs, aux):
        inner = {name: part for name, part in aux.items() if name != BASE}
        loss, (inner, metrics) = objective.loss_from_outputs(outputs, inner)
        return loss, (inner | {BASE: aux[BASE]}, metrics)

    def after_update(params: Any, aux: Any, step: Any) -> Any:
        whole, aux, base = apart(params, aux)
        return objective.after_update(whole, aux, step) | base

    def of_whole(read: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, aux, *images: read(*apart(params, aux)[:2], *images)

    return objective._replace(
        init=init,
        embed=embed,
        loss_from_outputs=loss_from_outputs,
        after_update=after_update,
        exported=of_whole(objective.exported),
        features=of_whole(objective.features),
        text=objective.text and of_whole(objective.text),
    )


def build(config: ConfigDict) -> Objective:
    """Returns the objective of `config` that trains what lies behind config.frozen_stages.

    Batch norm then works by the start's statistics (config.model.norm_eval). -1: nothing is frozen.
    Raises ValueError for a number that leaves nothing or makes no sense.
    """
    stages, model = config.frozen_stages, models.build(config.model)
    if stages == -1:
        return objectives.build(config)
    if type(stages) is not int or stages < -1:
        raise ValueError(
            f"config.frozen_stages={stages!r}: it must be -1 (nothing is frozen), 0 (the stem) "
            "or the number of stages after the stem"
        )
    if hasattr(model, "norm_eval"):
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.model.norm_eval = True

    def split(key: Any, params: Any) -> tuple[Any, Any]:
        trained, kept = {}, {}
        for name, part in params["encoder"].items():
            (kept if model.depth(name) <= stages else trained)[name] = part
        if not trained:
            last = max(model.depth(name) for name in kept)
            raise ValueError(
                f"config.frozen_stages={stages} leaves nothing of the encoder to train: at most "
                f"{last - 1} of its {last}"
            )
        return params | {"encoder": trained}, {"encoder": kept}

    def join(params: Any, rest: Any) -> Any:
        return params | {"encoder": rest["encoder"] | params["encoder"]}

    return train_part(objectives.build(config), split, join)

"""Averaging with the start: the encoder that leaves a continued pretraining is a mean of weights.

The mean of the weights that a training started from and those it came to keeps what the first knew
and most of what the second learned, in an encoder of the same size (WiSE-FT, arXiv:2109.01903).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxr_jax import models
from cxr_jax.config import Section
from cxr_jax.objectives import Objective

_START = "start"  # in aux: copied when the state is made, saved and restored with it


def mix(start: Any, trained: Any, share: float) -> Any:
    """Returns share * start + (1 - share) * trained, leaf by leaf, batch statistics alike.

    >>> mix({"kernel": 1.0}, {"kernel": 3.0}, 0.25)
    {'kernel': 2.5}
    """
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, start, trained)


def average_with_start(objective: Objective, config: Section) -> Objective:
    """Returns the objective whose exported encoder is averaged with the one it starts from.

    The share of the start is config.start_share, in (0, 1); training itself is as it was. Raises
    ValueError for another share, and for an objective with a text tower.
    """
    share = config["start_share"]
    if not 0 < share < 1:
        raise ValueError(
            f"config.start_share={share}: it is the share of config.init's weights in the encoder "
            "that is exported, at least 0 and less than 1"
        )
    if objective.text is not None:
        raise ValueError(
            f"config.start_share={share} would export the text tower and heads of an encoder that "
            f"is not the averaged one: config.objective.name={config['objective']['name']} goes "
            "with config.start_share=0"
        )
    model = models.build(config["model"])

    def init(key, batch):
        params, aux = objective.init(key, batch)
        # Named as everywhere, so that the weights of config.init are put here too. Copied: a state
        # in which two leaves are one buffer cannot be donated.
        encoder = jax.tree.map(jnp.copy, objective.exported(params, aux))
        return params, aux | {_START: {part: {"encoder": encoder[part]} for part in encoder}}

    def exported(params: Any, aux: Any) -> dict[str, Any]:
        start = {part: tree["encoder"] for part, tree in aux[_START].items()}
        return mix(start, objective.exported(params, aux), share)

    def features(params: Any, aux: Any, images: Float[Array, "b h w 1"]) -> Float[Array, "b d"]:
        return model.apply(exported(params, aux), images, train=False)

    return objective._replace(init=init, exported=exported, features=features)

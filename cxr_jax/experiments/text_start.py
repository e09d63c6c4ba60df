"""The text encoder of an image-text pretraining starts from the file that the config names."""

from typing import Any

import jax
import ml_collections

from cxr_jax.objectives import convirt
from cxr_jax.train_state import TrainState
from cxr_jax.weights import bert


def read(config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """The parameters in config.objective.text.weights; None where that names none.

    Raises FileNotFoundError and ValueError as bert.load.
    """
    text = config.objective.get("text")
    if not (text and text.weights):
        return None
    return bert.load(text.weights, convirt.text_encoder(config))


def put(state: TrainState, text: dict[str, Any]) -> TrainState:
    """The state with these parameters, each where its random one lay."""
    params, aux = convirt.put_text(state.params, state.aux, text)
    places = jax.tree.map(lambda leaf: leaf.sharding, (state.params, state.aux))
    params, aux = jax.device_put((params, aux), places)
    return state._replace(params=params, aux=aux)

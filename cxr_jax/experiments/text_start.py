"""The text encoder of an image-text pretraining starts from the file that the config names."""

from pathlib import Path
from typing import Any

import jax
import ml_collections

from cxr_jax.objectives import convirt
from cxr_jax.training import checkpoint, sharding
from cxr_jax.training.state import TrainState
from cxr_jax.weights.importers import _bert


def read(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The parameters in config.objective.text.weights.

    None where that names none, and where the workdir holds a checkpoint, which has them.

    Raises FileNotFoundError and ValueError as bert.load_text.
    """
    text = config.objective.get("text")
    if not (text and text.weights) or checkpoint.exists(workdir):
        return None
    return _bert.load_text(text.weights, convirt.text_encoder(config))


def put(state: TrainState, text: dict[str, Any]) -> TrainState:
    """The state with these parameters, each where its random one lay."""
    params, aux = convirt.put_text(state.params, state.aux, text)
    before = (state.params, state.aux)
    params, aux = jax.tree.map(
        lambda old, new: old if new is old else sharding.put_like(old, new), before, (params, aux)
    )
    return state._replace(params=params, aux=aux)

"""The text encoder of an image-text pretraining starts from the file that the config names."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from cxr_jax import checkpoint
from cxr_jax.objectives import convirt
from cxr_jax.train_state import TrainState
from cxr_jax.weights import bert


def read(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The parameters in config.objective.text.weights.

    None where that names none, and where the workdir holds a checkpoint, which has them.

    Raises FileNotFoundError and ValueError as bert.load_text.
    """
    text = config.objective.get("text")
    if not (text and text.weights) or checkpoint.exists(workdir):
        return None
    return bert.load_text(text.weights, convirt.text_encoder(config))


def digest(text: dict[str, Any]) -> dict[str, str]:
    """Equal for equal parameters, for hosts to compare."""
    joined = hashlib.sha256()
    for leaf in jax.tree.leaves(text):
        joined.update(np.asarray(leaf).tobytes())
    return {"parameters": joined.hexdigest()[:16]}


def put(state: TrainState, text: dict[str, Any]) -> TrainState:
    """The state with these parameters, each where its random one lay."""
    params, aux = convirt.put_text(state.params, state.aux, text)
    params, aux = jax.tree.map(_place, (state.params, state.aux), (params, aux))
    return state._replace(params=params, aux=aux)


def _place(old: jax.Array, new: jax.Array) -> jax.Array:
    """`new` where `old` lies. A copy: steps give their state's memory away."""
    if new is old:
        return old
    array = np.asarray(new, old.dtype)
    return jax.make_array_from_callback(
        array.shape, old.sharding, lambda index: np.array(array[index])
    )

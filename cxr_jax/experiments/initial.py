"""What config.init names: the encoder that a pretraining starts from in place of random weights.

Pixels' mean and std, and whatever else of its architecture config.model leaves open, come with the
weights, into the config that the workdir keeps.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cxr_jax import models, plugins, weights
from cxr_jax.data import seen_images
from cxr_jax.io.json import read_json
from cxr_jax.objectives import Objective
from cxr_jax.training import checkpoint, sharding
from cxr_jax.training.state import TrainState
from cxr_jax.weights.encoder import Encoder

# Fields of config.model that say how an encoder computes, or what it is before it has weights.
_FREE = ("dtype", "remat", "zero_init_residual")


def find(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Encoder | None]:
    """The config with what the weights bring, and the encoder to start from; None: none is needed.

    None is needed without config.init, and where the workdir holds a checkpoint: what the weights
    brought stands in its config.json, so that a run goes on without them.

    Raises:
      ValueError: the weights are of another architecture than config.model; and as weights.load.
      FileNotFoundError: there are none.
    """
    if not config.init:
        return config, None
    saved = workdir / "config.json"
    if saved.is_file() and checkpoint.exists(workdir):
        model = read_json(saved).get("model")
        if not isinstance(model, dict):
            raise ValueError(f"{saved} is damaged: it says no model; choose another --workdir")
        return take_over(config, model), None
    if config.init == "random":
        raise ValueError("config.init='random': leave it empty to start from random weights")
    encoder = weights.load(config.init)
    check_same(config, encoder)
    print(f"Starts from {encoder.name} ({config.init}).")
    return take_over(config, encoder.model), encoder


def take_over(config: ConfigDict, model: Mapping[str, Any]) -> ConfigDict:
    """The config with those fields of `model` that its own model leaves open."""
    taken = config.copy_and_resolve_references()
    brought = {name: value for name, value in model.items() if name not in _FREE}
    with taken.unlocked():
        taken.model = ConfigDict(brought | config.model.to_dict())
    return taken


def check_same(config: ConfigDict, encoder: Encoder) -> None:
    """Raises ValueError, listing the fields that differ, for weights of another architecture."""
    wanted, given = config.model.to_dict(), encoder.model
    names = [name for name in wanted if name not in _FREE]
    if wanted["name"] == given["name"]:
        known = _defaults(given["name"]) | dict(given)
    else:
        names, known = ["name"], {}
    known["name"] = given["name"]
    differing = [
        f"  config.model.{name}: {wanted[name]!r}; in the weights {known.get(name)!r}"
        for name in names
        if _plain(wanted[name]) != _plain(known.get(name))
    ]
    if differing:
        raise ValueError(
            f"config.init={config.init} is of another architecture than config.model:\n"
            + "\n".join(differing)
            + "\nGive config.model the weights' values, or other weights"
        )


def put(state: TrainState, encoder: Encoder, objective: Objective) -> TrainState:
    """The state with the encoder's variables wherever it holds an encoder's; heads stay as drawn.

    Copies that an objective keeps (a target, a teacher) are found by their name and their shapes.

    Raises ValueError if the encoder that would be exported is not among them.
    """
    sources = [part for part in encoder.variables.values() if part]

    def walk(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        return {name: _fill(tree[name]) if name == "encoder" else walk(tree[name]) for name in tree}

    def _fill(tree: Any) -> Any:
        for source in sources:
            if _shapes(tree) == _shapes(source):
                return jax.tree.map(sharding.put_like, tree, source)
        return walk(tree)

    filled = state._replace(params=walk(state.params), aux=walk(state.aux))
    exported = objective.exported(filled.params, filled.aux)
    if _shapes(exported) != _shapes(dict(encoder.variables)):
        raise ValueError(
            f"the variables of {encoder.name} do not have the shapes of the objective's encoder"
        )
    return filled


def seen_before(spec: str) -> tuple[seen_images.Ledger | None, str]:
    """What the encoder `spec` had seen, if it kept a ledger; and the name of the encoder of which
    nobody knows: itself if it kept none, or the one that it started from. ("": none, too.)
    """
    if not spec:
        return None, ""
    source, path = weights.parse_spec(spec)
    folder = Path(path).expanduser()
    if source in (None, "workdir", "safetensors") and (folder / seen_images.FILE).is_file():
        return seen_images.read(folder), seen_images.read_unknown_start(folder)
    if source == "hf":
        return None, spec
    return None, f"{source}:{folder.name}" if source else folder.name  # no paths: ledgers travel


def _shapes(tree: Any) -> Any:
    return jax.tree.map(np.shape, tree)


def _defaults(name: str) -> dict[str, Any]:
    make = plugins.find(models.__name__, name, "make", "model")
    return {field.name: field.default for field in inspect.signature(make).parameters.values()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""The encoder of one of our own pretraining runs: from its newest checkpoint that is whole."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cxr_jax import intact, models
from cxr_jax.weights.encoder import Encoder

_LARGEST = 100_000  # number in a model's config


def load(path: str) -> Encoder:
    """The encoder of the run in folder `path`, for films of its config.image_size.

    Raises:
      FileNotFoundError: no such run, or it has not saved a checkpoint yet.
      ValueError: a run of another experiment, a config.json that no run of ours has written, or
        checkpoints that are all damaged or without an encoder.
    """
    workdir = Path(path)
    config_path = workdir / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"{path} is not the workdir of a pretraining: no config.json in it")
    config = _read_config(config_path)
    item = intact.newest_whole(workdir / "checkpoints", "encoder")
    if item is None:
        raise FileNotFoundError(f"{path} has no checkpoint yet; let the pretraining save its first")
    variables, step = _read(item), item.parent.name
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        raise ValueError(f"{path}: the encoder of step {step} holds NaN: its training failed")
    _check(config, config_path)
    return Encoder(
        name=f"{config['objective']['name']} step {step}",
        model=config["model"],
        variables={"batch_stats": {}} | variables,
        image_size=config["image_size"],
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    experiment = config.get("experiment") if isinstance(config, dict) else None
    if experiment != "pretrain":
        raise ValueError(
            f"{path.parent} is the workdir of a {experiment} run; an encoder comes from a "
            "pretraining's workdir"
        )
    return config


def _check(config: dict[str, Any], path: Path) -> None:
    """Refuses a config that is not one of ours: it may come with a stranger's checkpoint.

    Raises ValueError.
    """
    model, objective, size = (config.get(key) for key in ("model", "objective", "image_size"))
    named = isinstance(objective, dict) and isinstance(objective.get("name"), str)
    if not (named and isinstance(model, dict) and isinstance(size, int) and 1 <= size <= _LARGEST):
        raise ValueError(f"{path} says no model, no objective's name or no image_size of a run")
    if any(not abs(n) <= _LARGEST for n in jax.tree.leaves(model) if isinstance(n, int | float)):
        raise ValueError(f"{path}: config.model {model} holds an absurd number")
    try:
        models.build(model)
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{path}: no model of ours ({error})") from error


def _read(item: Path) -> dict:
    try:
        # The handler: a Checkpointer asks for a whole checkpoint's metadata, which no item has.
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            saved = handler.metadata(item.resolve()).tree
            # As NumPy, so that an encoder saved on eight devices loads on one.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            order = ocp.args.PyTreeRestore(restore_args=as_numpy)
            return handler.restore(item.resolve(), args=order)
    except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged file
        raise ValueError(
            f"{item} is damaged; remove checkpoint {item.parent} to use the one before it"
        ) from error

"""The encoder of a pretraining by cxr_jax, from its newest checkpoint that is whole."""

import contextlib
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain
from cxr_jax.training import checkpoint as checkpoints
from cxr_jax.weights.encoder import Encoder, check_facts


def load(path: str) -> Encoder:
    """Reads the encoder of the run in folder `path`, for images of its config.image_size.

    Raises FileNotFoundError for no such run, or one without a checkpoint yet; ValueError for a run
    of another experiment, a config.json that our runs do not write, or damaged checkpoints.
    """
    workdir = Path(path)
    config_path = workdir / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"{path} is not the workdir of a pretraining: no config.json in it")
    config = read_json(config_path)
    if (experiment := config.get("experiment")) != "pretrain":
        raise ValueError(
            f"{workdir} is the workdir of a {plain(str(experiment))} run; an encoder comes from a "
            "pretraining's workdir"
        )
    item = checkpoints.newest_whole(workdir / "checkpoints", "encoder")
    if item is None:
        raise FileNotFoundError(f"{path} has no checkpoint yet; let the pretraining save its first")
    variables, step = _read(item), item.parent.name
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        raise ValueError(f"{path}: the encoder of step {step} holds NaN: its training failed")
    _check(config, config_path, item.parent)
    return Encoder(
        name=f"{config['objective']['name']} step {step}",
        model=config["model"],
        variables={"batch_stats": {}} | variables,
        image_size=config["image_size"],
    )


def _check(config: dict[str, Any], path: Path, checkpoint: Path) -> None:
    """Checks a config that may come with a stranger's checkpoint. Raises ValueError."""
    objective = config.get("objective")
    name = objective.get("name") if isinstance(objective, dict) else None
    if not (isinstance(name, str) and re.fullmatch(r"\w{1,99}", name)):
        raise ValueError(f"{path} has no objective's name")
    check_facts(path, config.get("model"), config.get("image_size"))
    # The checkpoint's copy is among its hashed files; config.json has no hash.
    copy = checkpoint / "config" / "metadata"
    if not copy.is_file() or checkpoints.find_damage(checkpoint, ("config",)):
        return
    saved = read_json(copy)
    for key in ("model", "objective", "image_size"):
        if key in saved and saved[key] != config[key]:
            raise ValueError(
                f"{path}: {key} is not what checkpoint {checkpoint.name} was saved with: the file "
                f"was changed or damaged. {copy} has the right one"
            )


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

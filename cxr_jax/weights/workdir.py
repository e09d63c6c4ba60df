"""The encoder of one of our own pretraining runs: from its newest checkpoint that is whole."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from cxr_jax import intact
from cxr_jax.weights.encoder import Encoder


def load(path: str) -> Encoder:
    """The encoder of the run in folder `path`, for films of its config.image_size.

    Raises:
      FileNotFoundError: no such run, or it has not saved a checkpoint yet.
      ValueError: a run of another experiment, or one whose checkpoints are all damaged.
    """
    workdir = Path(path)
    config_path = workdir / "config.json"
    if not config_path.is_file():
        raise FileNotFoundError(f"{path} is not the workdir of a pretraining: no config.json in it")
    config = json.loads(config_path.read_text())
    if config.get("experiment") != "pretrain":
        raise ValueError(
            f"{path} is the workdir of a {config.get('experiment')} run; an encoder comes from a "
            "pretraining's workdir"
        )
    item = intact.newest_whole(workdir / "checkpoints", "encoder")
    if item is None:
        raise FileNotFoundError(f"{path} has no checkpoint yet; let the pretraining save its first")
    variables, step = _read(item), item.parent.name
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        raise ValueError(f"{path}: the encoder of step {step} holds NaN: its training failed")
    return Encoder(
        name=f"{config['objective']['name']} step {step}",
        model=config["model"],
        variables={"batch_stats": {}} | variables,
        image_size=config["image_size"],
    )


def _read(item: Path) -> dict:
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(item.resolve()).item_metadata.tree
            # As NumPy, so that an encoder saved on eight devices loads on one.
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            return checkpointer.restore(item.resolve(), restore_args=as_numpy)
    except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged file
        raise ValueError(
            f"{item} is damaged; remove checkpoint {item.parent} to use the one before it"
        ) from error

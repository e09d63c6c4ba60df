"""Our own encoders: a pretraining's `workdir`, and `safetensors`, as weights.export writes them.

A workdir's encoder is that of its newest checkpoint that is whole; with it goes the text tower, if
there is one.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import find_weights, read_arrays, read_facts
from cxr_jax.weights.convert import errors_naming, fill, flat, own_key
from cxr_jax.weights.encoder import Encoder, check_facts
from cxr_jax.weights.text import FACTS, Text, assemble, read_folder


def load_safetensors(path: str | Path) -> Encoder:
    """Reads the encoder in the folder, which holds model.safetensors and cxr_jax.json."""
    file = find_weights(path)
    arrays, facts = read_arrays(file), read_facts(file, "cxr_jax.json")
    with errors_naming(file):
        if not {"name", "model", "image_size"} <= set(facts):
            raise ValueError("no cxr_jax.json beside it that says what the model is")
        model, size, fit = facts["model"], facts["image_size"], facts.get("fit", "crop")
        check_facts(Path("cxr_jax.json"), model, size, fit)
        variables = fill(model, arrays, own_key, f"its {model.get('name')}")
    encoder = Encoder(plain(str(facts["name"])), model, variables, size, fit)
    if (file.parent / FACTS).is_file():
        encoder = encoder._replace(text=partial(read_folder, file.parent, encoder.width))
    return encoder


def load_workdir(path: str) -> Encoder:
    """Reads the encoder of the run in folder `path`, for images of its config.image_size.

    Raises FileNotFoundError for no such run, or one without a checkpoint yet; ValueError for a run
    of another experiment, a config.json that our runs do not write, or damaged checkpoints.
    """
    from cxr_jax.training import checkpoint as checkpoints  # Orbax: a second and a half

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
    variables, step = checkpoints.read_item(item), item.parent.name
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        raise ValueError(f"{path}: the encoder of step {step} holds NaN: its training failed")
    # The checkpoint's copy is among its hashed files; config.json has no hash.
    copy = item.parent / "config" / "metadata"
    sound = copy.is_file() and not checkpoints.find_damage(item.parent, ("config",))
    _check(config, config_path, read_json(copy) if sound else {}, copy)
    encoder = Encoder(
        name=f"{config['objective']['name']} step {step}",
        model=config["model"],
        variables={"batch_stats": {}} | variables,
        image_size=config["image_size"],
    )
    if (workdir / FACTS).is_file():
        text = partial(_read_text, workdir, item.with_name(checkpoints.TEXT), encoder.width)
        encoder = encoder._replace(text=text)
    return encoder


def _read_text(workdir: Path, item: Path, width: int) -> Text:
    """Reads the text tower of the checkpoint that the encoder is of. Raises ValueError."""
    from cxr_jax.training import checkpoint as checkpoints

    if damage := checkpoints.find_damage(item.parent, (item.name,)):
        raise ValueError(f"{item.parent}: its text tower cannot be read: {damage}")
    facts = read_json(workdir / FACTS)
    arrays = flat(checkpoints.read_item(item))
    return assemble(facts, arrays, workdir / "tokenizer.json", item, width)


def _check(config: dict[str, Any], path: Path, saved: dict[str, Any], copy: Path) -> None:
    """Checks a config that may come with a stranger's checkpoint. Raises ValueError."""
    objective = config.get("objective")
    name = objective.get("name") if isinstance(objective, dict) else None
    if not (isinstance(name, str) and re.fullmatch(r"\w{1,99}", name)):
        raise ValueError(f"{path} has no objective's name")
    check_facts(path, config.get("model"), config.get("image_size"))
    for key in ("model", "objective", "image_size"):
        if key in saved and saved[key] != config[key]:
            raise ValueError(
                f"{path}: {key} is not what checkpoint {copy.parents[1].name} was saved with: the "
                f"file was changed or damaged. {copy} has the right one"
            )


SOURCES = {"workdir": load_workdir, "safetensors": load_safetensors}

"""Inputs of a pretraining: images, other fields of a batch, weights to start from.

The workdir is only read here: a run that goes on takes no weights from elsewhere.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cxr_jax import models, weights
from cxr_jax.data import seen_images
from cxr_jax.data.order import NO_FIELDS, Fields
from cxr_jax.data.source import Source, load_source
from cxr_jax.experiments import _workdir
from cxr_jax.io.json import read_json
from cxr_jax.objectives import Objective, _image_text, batch_shapes
from cxr_jax.training import checkpoint, sharding
from cxr_jax.training.step import COMMON_METRICS, Training, TrainState
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers import _text


def load_images(config: ConfigDict) -> Source:
    """Opens the images to train on, without those of config.data.exclude."""
    data = config.data
    source = load_source(data.name, data.dir, data.split, fields=("image",))
    excluded = [name.strip() for name in data.exclude.split(",") if name.strip()]
    if not excluded:
        return source
    kept = seen_images.leave_out(source, excluded, data.dir)
    print(f"Left out {len(source) - len(kept):,} images that {', '.join(excluded)} may share.")
    return kept


def fingerprint(config: ConfigDict, source: Source) -> dict[str, str]:
    """Returns the entry of provenance.json for these images."""
    return {f"{config.data.name} {config.data.split}": _workdir.fingerprint_images(source)}


def check_images(
    config: ConfigDict, source: Source, images: Mapping[str, str], workdir: Path
) -> None:
    """Refuses to go on with other images, without the run's config, or with batches of one image.

    The position in the data and seen_images.parquet would be wrong for the new images. Raises
    ValueError or FileNotFoundError.
    """
    if checkpoint.steps(workdir / checkpoint.FOLDER) and not (workdir / "config.json").is_file():
        raise FileNotFoundError(
            f"{workdir} has checkpoints, but its config.json is missing: restore it, or copy it "
            f"from {workdir / checkpoint.FOLDER}/<step>/config/metadata"
        )
    if checkpoint.steps(workdir / checkpoint.FOLDER) and (workdir / _workdir.PROVENANCE).is_file():
        before = _workdir.read_provenance(workdir)["starts"][-1]["dataset"]
        if list(before.values()) != list(images.values()):
            lines = "\n".join(f"  {line}" for line in _workdir.differences(before, images))
            raise ValueError(
                f"the images are no longer those that {workdir} was begun with:\n{lines}\n"
                "Bring that dataset back, or begin anew in another --workdir"
            )
    if config.batch_size < 2:
        raise ValueError(
            f"config.batch_size={config.batch_size}: a pretraining compares images with each "
            "other, so a batch holds two or more "
            f"({source.name} {source.split!r} has {len(source):,})"
        )


def open_fields(
    config: ConfigDict, objective: Objective, source: Source, workdir: Path
) -> tuple[Source, Fields]:
    """Opens what the objective's batches hold besides images; returns the images that have it all.

    Raises ValueError where the dataset lacks it, or it is not what the objective declares, and for
    config.data.pairs where images alone are read.
    """
    fields = NO_FIELDS
    if objective.open_fields is not None:
        source, fields = objective.open_fields(source, workdir)
    elif config.data.pairs:
        raise ValueError(
            f"config.data.pairs={config.data.pairs} would change nothing: "
            f"config.objective.name={config.objective.name} reads no pairs of images; "
            "configs/medaug.py does"
        )
    images = tuple(name for name, field in objective.batch.items() if field.shape is None)
    fields = fields._replace(images=images)
    if not len(source):
        return source, fields
    declared = batch_shapes(objective.batch, 1, config.data.image_size)
    declared |= dict.fromkeys(images, jax.ShapeDtypeStruct((1,), np.int32))  # rows in the source
    drawn = fields.batch(len(source), config.seed, 0, 1)
    expected, found = (
        {name: f"{np.dtype(x.dtype).name} {list(x.shape[1:])}" for name, x in batch.items()}
        for batch in (declared, drawn)
    )
    if found != expected:
        raise ValueError(
            f"config.objective.name={config.objective.name!r} declares a batch of {expected}, and "
            f"its open_fields reads {found} (of an image its row in the dataset, int32)"
        )
    return source, fields


def check_declared(config: ConfigDict, training: Training) -> None:
    """Raises ValueError for a batch key or a metric that the objective does not declare."""
    where, objective = f"config.objective.name={config.objective.name!r}", training.objective
    try:
        metrics = training.step.eval_shape(*training.shapes())[1]
    except KeyError as error:
        raise ValueError(
            f"{where} reads {error}, and its batch holds {', '.join(objective.batch)}: what it "
            "reads of a batch must be declared (Objective.batch)"
        ) from error
    own = set(metrics) - set(COMMON_METRICS)
    if own != set(objective.metrics):
        raise ValueError(
            f"{where} gives the metrics {', '.join(sorted(own)) or '(none)'} and declares "
            f"{', '.join(sorted(objective.metrics)) or '(none)'} (Objective.metrics)"
        )


class Start(NamedTuple):
    """The weights to start from; None: random ones, or those of a checkpoint."""

    encoder: Encoder | None  # of config.init
    text: dict[str, Any] | None  # of config.objective.text.weights, in image-text objectives


def read_start(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Start]:
    """Reads the weights to start from, unless the workdir holds a checkpoint, which has them.

    Returns also the config with what they bring: pixels' mean and std, and whatever else of the
    encoder's architecture config.model leaves open. A run that goes on has it from config.json.
    Raises ValueError for weights of another architecture, and as weights.load and _text.load_text.
    """
    resumed, encoder, text = checkpoint.steps(workdir / checkpoint.FOLDER), None, None
    saved = workdir / "config.json"
    if config.start_share and not config.init:
        raise ValueError(
            f"config.start_share={config.start_share} averages with the weights to start from, "
            "and config.init names none: --config.init=torchvision:/weights/resnet50.pth, another "
            "encoder of docs/weights.md, or config.start_share=0"
        )
    if config.lora.rank > 0 and not config.init:
        raise ValueError(
            f"config.lora.rank={config.lora.rank} adapts an encoder that stays as it is, and "
            "without config.init that one is random: name an encoder of docs/weights.md there, or "
            "set config.lora.rank=0"
        )
    if config.frozen_stages >= 0 and config.lora.rank > 0:
        raise ValueError(
            f"config.frozen_stages={config.frozen_stages} and config.lora.rank={config.lora.rank}: "
            "adapters leave the encoder as it is already; set frozen_stages=-1 or lora.rank=0"
        )
    if config.frozen_stages >= 0 and not config.init:
        raise ValueError(
            f"config.frozen_stages={config.frozen_stages} keeps what the encoder starts with, and "
            "without config.init that is random: name an encoder of docs/weights.md there, or set "
            "config.frozen_stages=-1"
        )
    if config.init and resumed and saved.is_file():
        model = read_json(saved).get("model")
        if not isinstance(model, dict):
            raise ValueError(f"{saved} is damaged: it says no model; choose another --workdir")
        config = take_over(config, model)
    elif config.init == "random":
        raise ValueError("config.init='random': leave it empty to start from random weights")
    elif config.init:
        encoder = weights.load(config.init)
        check_same(config, encoder)
        print(f"Starts from {encoder.name} ({weights.with_source(config.init)}).")
        if encoder.fit != "crop":
            print(
                f"It was made for whole images ({encoder.fit}). This training, and the encoder "
                "that comes of it, read their central squares."
            )
        config = take_over(config, encoder.model)
    given = config.objective.get("text")
    if given and given.weights and not resumed:
        if not config.data.reports.tokenizer:
            raise ValueError(
                f"config.objective.text.weights={given.weights} knows words by the numbers of its "
                "own tokenizer: name that in config.data.reports.tokenizer"
            )
        text = _text.load_text(given.weights, _image_text.text_encoder(config))
    return config, Start(encoder, text)


def take_over(config: ConfigDict, model: Mapping[str, Any]) -> ConfigDict:
    """Returns the config with those fields of `model` that its own model leaves open."""
    taken = config.copy_and_resolve_references()
    brought = {name: value for name, value in model.items() if name not in models.FREE}
    with taken.unlocked():
        taken.model = ConfigDict(brought | config.model.to_dict())
    return taken


def check_same(config: ConfigDict, encoder: Encoder) -> None:
    """Raises ValueError, listing the fields that differ, for weights of another architecture."""
    differing = models.differences(config.model.to_dict(), encoder.model)
    if differing:
        advice = "Give config.model the weights' values, or other weights"
        if "name" in differing:
            wanted, given = differing["name"]
            advice = (
                f"This config goes on from {wanted} weights: take such (docs/weights.md has what "
                f"there is), or a config that goes on from {given} weights"
            )
        raise ValueError(
            f"config.init={config.init} is of another architecture than config.model:\n"
            + "\n".join(
                f"  config.model.{name}: {wanted!r}; in the weights {given!r}"
                for name, (wanted, given) in differing.items()
            )
            + f"\n{advice}"
        )


def fingerprint_start(config: ConfigDict, start: Start) -> dict[str, dict[str, str]]:
    """Returns the entries "encoders" and "texts" of provenance.json."""
    encoders, texts = {}, {}
    if start.encoder:
        encoders[config.init] = _workdir.fingerprint_weights(start.encoder)
    if start.text:
        texts[config.objective.text.weights] = _workdir.fingerprint_arrays(start.text)
    return {"encoders": encoders, "texts": texts}


def put_start(state: TrainState, start: Start, objective: Objective) -> TrainState:
    """Returns the state with these weights, each where its random one lay; heads stay as drawn.

    Copies of the encoder that an objective keeps (a target, a teacher), and parts of it, are found
    by their name and their shapes. Raises ValueError if the one that would be exported is not among
    them.
    """
    if start.encoder:
        parts = [part for part in start.encoder.variables.values() if part]

        def put(tree: Any, of_encoder: bool = False) -> Any:
            for part in parts if of_encoder else ():
                own = {name: part[name] for name in part if name in tree}  # those that lie here
                if own and _shapes(tree) == _shapes(own):
                    return jax.tree.map(sharding.put_like, tree, own)
            if not isinstance(tree, dict):
                return tree
            return {name: put(inner, name == "encoder") for name, inner in tree.items()}

        state = state._replace(params=put(state.params), aux=put(state.aux))
        exported = objective.exported(state.params, state.aux)
        if _shapes(exported) != _shapes(dict(start.encoder.variables)):
            raise ValueError(
                f"the variables of {start.encoder.name} do not have the shapes of the objective's "
                "encoder"
            )
    if start.text:
        old = (state.params, state.aux)
        params, aux = jax.tree.map(
            lambda old, new: old if new is old else sharding.put_like(old, new),
            *(old, _image_text.put_text(*old, start.text)),
        )
        state = state._replace(params=params, aux=aux)
    return state


def _shapes(tree: Any) -> Any:
    return jax.tree.map(np.shape, tree)

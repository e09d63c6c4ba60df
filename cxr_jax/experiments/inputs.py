"""What a transfer works on: its encoders, the splits of its dataset, and a mark of both."""

import hashlib
import json
from collections import Counter

import jax
import ml_collections
import numpy as np
from jaxtyping import Int

from cxr_jax import weights
from cxr_jax.data import tasks
from cxr_jax.data.source import fingerprint_build
from cxr_jax.data.splits import load_split, patient_subset
from cxr_jax.experiments import _provenance
from cxr_jax.transfer import _protocol
from cxr_jax.transfer._protocol import Splits
from cxr_jax.weights.encoder import Encoder, random_encoder


def baselines(config: ml_collections.ConfigDict) -> list[str]:
    """Those of config.baselines, as they are written there."""
    return [spec.strip() for spec in config.baselines.split(",") if spec.strip()]


def specs(config: ml_collections.ConfigDict) -> list[str]:
    """The encoder's and its baselines', each once: random against random says nothing."""
    return list(dict.fromkeys([config.encoder, *baselines(config)]))


def load_encoders(config: ml_collections.ConfigDict) -> list[Encoder]:
    """The encoder, then its baselines; "random" takes the shape of the encoder beside it."""
    wanted = specs(config)
    loaded = {spec: weights.load(spec) for spec in wanted if spec != "random"}
    if loaded:
        first = next(iter(loaded.values()))
        shape, size = first.model, first.image_size
    else:
        shape, size = config.model.to_dict(), config.image_size
    if "random" in wanted:  # compiling its initialisation takes seconds
        loaded["random"] = random_encoder(shape, size, config.seed)
    count = Counter(loaded[spec].name for spec in wanted)
    return [
        encoder._replace(name=f"{encoder.name} ({spec})") if count[encoder.name] > 1 else encoder
        for spec, encoder in ((spec, loaded[spec]) for spec in wanted)
    ]


def load_splits(config: ml_collections.ConfigDict) -> Splits:
    """Train (cut to the label fraction), validation and test.

    Raises ValueError as check_disjoint.
    """
    whole = load_whole_splits(config)
    return cut(whole, training_rows(config, whole))


def cut(whole: Splits, rows: Int[np.ndarray, " n"]) -> Splits:
    """The splits with these rows of train labelled; the others go along as images alone."""
    train = whole.train
    rest = np.setdiff1d(np.arange(len(train.rows)), rows)
    return whole._replace(train=train.take(rows)._replace(rest=train.rows[rest]))


def load_whole_splits(config: ml_collections.ConfigDict) -> Splits:
    """As `load_splits`, with every training image."""
    splits = Splits(
        *(
            load_split(
                config.dataset, config.data.dir, split, config.task, tasks.changes_of(config)
            )
            for split in ("train", "validation", "test")
        )
    )
    check_disjoint(splits)
    return splits


def training_rows(config: ml_collections.ConfigDict, whole: Splits) -> Int[np.ndarray, " n"]:
    """The rows of the whole training split that the label fraction and the seed leave."""
    return patient_subset(whole.train.patient_ids, config.label_fraction, config.seed)


def check_disjoint(splits: Splits) -> None:
    """Raises ValueError, naming two images, where a patient stands in two splits.

    Scores would be too good. The images are named by their places in the splits: ids are patients'.
    """
    first: dict[str, tuple[str, int]] = {}
    for name, split in splits._asdict().items():
        for row, patient in zip(split.rows, split.patient_ids):
            where, other = first.setdefault(patient, (name, row))
            if where != name:
                raise ValueError(
                    f"{split.source.name}: image {row} of {name} is of the same patient as image "
                    f"{other} of {where}. Splits must part patients: build the dataset again with "
                    "splits that do"
                )


def fingerprint_splits(config: ml_collections.ConfigDict, splits: Splits) -> dict[str, str | None]:
    """Each split's images, targets and patients, as provenance.json marks them."""
    return {
        f"{config.dataset} {name}": _provenance.fingerprint_images(
            split.source, split.rows, split.targets, split.patient_ids
        )
        for name, split in splits._asdict().items()
    }


def fingerprint(config: ml_collections.ConfigDict, encoder: Encoder, splits: Splits) -> str:
    """Of protocol, weights, images and labels: a result is taken up again only if none changed."""
    settings = json.dumps(_protocol.build(config).settings, sort_keys=True)
    what = (config.protocol, settings, encoder.model, encoder.image_size)
    digest = hashlib.sha256(repr(what).encode())
    if splits.test.task.exclusive:  # targets may be equal without
        digest.update(b"exclusive")
    for leaf in jax.tree.leaves(encoder.variables):
        digest.update(np.asarray(leaf).tobytes())
    for split in splits:
        digest.update(fingerprint_build(split.source.folder).encode())
        # Hashed, as results hold them: with another secret they no longer fit those before.
        for ids in split.hashed_ids():
            digest.update("\n".join(ids).encode())
        for array in (split.rows, split.targets, split.rest):
            digest.update(array.tobytes())
    return digest.hexdigest()

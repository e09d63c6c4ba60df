"""Inputs of a transfer: its encoders, the splits of its dataset, features and fingerprints."""

import functools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jaxtyping import Float, Int

from cxr_jax import weights
from cxr_jax.data import tasks
from cxr_jax.data.dataset_info import find_folder, open_built
from cxr_jax.data.source import fingerprint_build
from cxr_jax.data.splits import LabelledSplit, image_batches, load_split, patient_subset, unlabelled
from cxr_jax.experiments import _workdir
from cxr_jax.experiments._pretrainings import pretrainings
from cxr_jax.experiments._workdir import hash_arrays
from cxr_jax.transfer import _folds, _protocol
from cxr_jax.transfer._protocol import Protocol, Splits
from cxr_jax.weights.encoder import Encoder, features, random_encoder

_QUIET_SECONDS = 5.0


def baselines(config: ml_collections.ConfigDict) -> list[str]:
    """Returns those of config.baselines, as they are written there."""
    return [spec.strip() for spec in config.baselines.split(",") if spec.strip()]


def groups(config: ml_collections.ConfigDict) -> list[list[str]]:
    """Returns the pretrainings of the encoder, mostly one, then those of each baseline.

    Each encoder once: random against random says nothing. Raises as `pretrainings`, and ValueError
    for a pretraining that is on both sides.
    """
    found = [pretrainings("config.encoder", config.encoder)]
    others = [spec for spec in dict.fromkeys(baselines(config)) if spec != config.encoder]
    found += [pretrainings("config.baselines", spec) for spec in others]
    count = Counter(spec for group in found for spec in group)
    if twice := [spec for spec in count if count[spec] > 1]:
        raise ValueError(
            f"{twice[0]} is compared with itself: config.encoder={config.encoder}, "
            f"config.baselines={config.baselines}"
        )
    return found


def specs(config: ml_collections.ConfigDict) -> list[str]:
    """Returns all pretrainings of `groups`, in order."""
    return [spec for group in groups(config) for spec in group]


def load_encoders(config: ml_collections.ConfigDict) -> list[Encoder]:
    """Loads the encoder, then its baselines; "random" has the shape of the encoder beside it.

    Raises ValueError, naming it, for an encoder that cannot read images of config.read_size.
    """
    wanted = specs(config)
    loaded = {spec: weights.load(spec) for spec in wanted if spec != "random"}
    if loaded:
        first = next(iter(loaded.values()))
        shape, size, fit = first.model, first.image_size, first.fit
    else:
        shape, size, fit = config.model.to_dict(), config.image_size, "crop"
    if "random" in wanted:  # compiling its initialisation takes seconds
        loaded["random"] = random_encoder(shape, size, config.seed)._replace(fit=fit)
    loaded = {spec: at_size(encoder, config.read_size) for spec, encoder in loaded.items()}
    count = Counter(loaded[spec].name for spec in wanted)
    return [
        encoder._replace(name=f"{encoder.name} ({spec})") if count[encoder.name] > 1 else encoder
        for spec, encoder in ((spec, loaded[spec]) for spec in wanted)
    ]


def at_size(encoder: Encoder, size: int) -> Encoder:
    """Returns the encoder reading squares of config.read_size; 0 leaves it its own.

    Raises ValueError for images that the encoder's model cannot read.
    """
    patch = encoder.model.get("patch", 1)
    if size < 0 or size % patch:
        raise ValueError(
            f"config.read_size={size}: {encoder.name} reads images whose side is a multiple of "
            f"{patch}; 0 leaves each encoder its own, here {encoder.image_size}"
        )
    return encoder._replace(image_size=size or encoder.image_size)


def protocol(config: ml_collections.ConfigDict) -> Protocol:
    """Returns config.protocol, cross-validated where config.folds says so; raises as its make."""
    _folds.check(config)
    return _folds.cross_validated(_protocol.build(config), config)


def load_splits(config: ml_collections.ConfigDict) -> Splits:
    """Loads train (cut to the label fraction), validation and test. Raises as check_disjoint."""
    whole = load_whole_splits(config)
    return cut(whole, training_rows(config, whole))


def cut(whole: Splits, rows: Int[np.ndarray, " n"]) -> Splits:
    """Returns the splits with these rows of train labelled, and the others as images alone."""
    train = whole.train
    rest = np.setdiff1d(np.arange(len(train.rows)), rows)
    return whole._replace(train=train.take(rows)._replace(rest=train.rows[rest]))


def load_whole_splits(config: ml_collections.ConfigDict) -> Splits:
    """Loads the splits as `load_splits` does, with every training image.

    With config.folds each is all labelled images of config.folds_of, of which folds are made.
    """
    how = (config.task, tasks.changes_of(config))
    where = (config.dataset, config.data.dir)
    _folds.check(config)
    if config.folds:
        there = open_built(find_folder(*where)).info.splits
        if lacking := [name for name in config.folds_of.split("+") if name not in there]:
            raise ValueError(
                f"{config.dataset} has no split {', '.join(lacking)} to make folds of: give "
                f"config.folds_of={'+'.join(name for name in Splits._fields if name in there)}"
            )
        pool = load_split(*where, config.folds_of, *how)
        pool = pool.take(np.flatnonzero(pool.labelled))
        _folds.assign(pool, config.folds, config.seed)  # refuses what cannot be parted
        return Splits(pool, pool, pool)
    splits = Splits(*(load_split(*where, split, *how, or_masks=True) for split in Splits._fields))
    check_disjoint(splits)
    splits = protocol(config).labels(splits)
    if not splits.test.label_names:
        raise unlabelled(config.dataset)
    return splits


def training_rows(config: ml_collections.ConfigDict, whole: Splits) -> Int[np.ndarray, " n"]:
    """Returns the rows of the whole training split that the label fraction and the seed leave.

    With config.folds all: each training part is cut on its own.
    """
    train = whole.train
    if config.folds:
        return np.arange(len(train.rows))
    return patient_subset(train.patient_ids, config.label_fraction, config.seed, train.labelled)


def check_disjoint(splits: Splits) -> None:
    """Raises ValueError, naming two images, where a patient is in two splits.

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


def fingerprint_splits(config: ml_collections.ConfigDict, splits: Splits) -> dict[str, str]:
    """Returns each split's fingerprint, of images, targets and patients, for provenance.json."""
    return {
        f"{config.dataset} {name}": _workdir.fingerprint_images(
            split.source, split.rows, split.targets, split.patient_ids, split.marked
        )
        for name, split in parts(config, splits).items()
    }


def parts(config: ml_collections.ConfigDict, splits: Splits) -> dict[str, LabelledSplit]:
    """Returns the splits by name, each image once: with config.folds they are all the same."""
    return {config.folds_of: splits.test} if config.folds else splits._asdict()


def as_read_by(encoder: Encoder, splits: Splits) -> Splits:
    """Returns the splits with their images made squares as the encoder reads them."""
    return Splits(*(s._replace(source=s.source.changed(fit=encoder.fit)) for s in splits))


def fingerprint(config: ml_collections.ConfigDict, encoder: Encoder, splits: Splits) -> str:
    """Returns the fingerprint of protocol, weights, images and labels.

    A result is taken up again only if none of them changed.
    """
    chosen = protocol(config)
    settings = json.dumps(chosen.settings, sort_keys=True)
    said = repr((config.protocol, settings, *encoder.reads))
    if splits.test.task.exclusive:  # targets may be equal without
        said += "exclusive"
    digest = hash_arrays((encoder.variables, chosen.reads(encoder)), said)
    for split in splits:
        digest.update(fingerprint_build(split.source.folder).encode())
        # Hashed, as results hold them: with another secret they no longer fit those before.
        for ids in split.hashed_ids():
            digest.update("\n".join(ids).encode())
        for array in (split.rows, split.targets, split.rest):
            digest.update(array.tobytes())
        digest.update(split.marked)
    return digest.hexdigest()


def frozen_features(
    config: ml_collections.ConfigDict, encoder: Encoder, splits: Splits
) -> Callable[[str], Float[np.ndarray, "n d"]]:
    """Returns `Tools.extract`: features are read once however often they are asked for."""

    @functools.cache
    def features(name: str) -> Float[np.ndarray, "n d"]:
        size, train = config.batch_size, splits.train
        if name == "unlabelled":
            split = train._replace(rows=_protocol.stand_ins(len(train.rows), train.rest))
        else:
            split = getattr(splits, name)
        if config.feature_cache:
            return extract_once(encoder, split, size, Path(config.feature_cache).expanduser())
        return extract(encoder, split, size, name)

    return features


def extract(
    encoder: Encoder, split: LabelledSplit, batch_size: int, name: str
) -> Float[np.ndarray, "n d"]:
    """Computes frozen features, a row per image; progress lines call the split `name`."""
    rows = list(each_batch(encoder, split, batch_size, name, features(encoder)))
    values = np.concatenate(rows)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{encoder.name}: features of {name} images are not finite: its weights are not, or "
            f"{encoder.image_size} px are too few for it (config.read_size)"
        )
    return values


def each_batch(
    encoder: Encoder,
    split: LabelledSplit,
    batch_size: int,
    name: str,
    apply: Callable[[np.ndarray], jax.Array],
) -> Iterator[Float[np.ndarray, "b ..."]]:
    """Yields what `apply` makes of the images, batch by batch, in order.

    Evaluation mode: what an image gives does not depend on the others of its batch. A short
    last batch is padded to a power of two and cut, so that few programs serve and little is wasted.
    """
    done, total = 0, len(split.rows)
    start = reported = time.monotonic()
    for images in image_batches(split, batch_size, encoder.image_size):
        full = min(batch_size, 1 << (len(images) - 1).bit_length())
        padded = np.pad(images, ((0, full - len(images)), (0, 0), (0, 0), (0, 0)))
        yield np.asarray(apply(padded / np.float32(255)))[: len(images)]
        done += len(images)
        now = time.monotonic()
        if now - reported > _QUIET_SECONDS and done < total:
            rate = done / (now - start)
            print(
                f"  {encoder.name}, {name}: {done:,} of {total:,} images  {rate:,.1f} images/s  "
                f"{(total - done) / rate:.0f} s left",
                flush=True,
            )
            reported = now


def extract_once(
    encoder: Encoder, split: LabelledSplit, batch_size: int, cache: Path
) -> Float[np.ndarray, "n d"]:
    """Takes what `extract` gives from files below `cache`, made for whole splits if absent.

    A file is named after weights, dataset and split, so that a change of any makes another. Many
    label fractions and seeds then cost one pass over the images. Of a sum of splits, which folds
    are made of, each is kept by itself: folds and test parts share them.
    """
    source, stop, parts = split.source, 0, []
    there = open_built(source.folder).info.splits
    for part in source.split.split("+"):
        start, stop = stop, stop + there[part].num_examples
        path = cache / f"{feature_key(encoder, source.folder, part)}.npy"
        try:
            np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):  # not there, or cut short by a full disk
            whole = split._replace(rows=np.arange(start, stop))
            values = extract(encoder, whole, batch_size, part)
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=cache, suffix=".tmp", delete=False) as file:
                np.save(file, values)  # of its own name: other processes may write the same
            Path(file.name).replace(path)
        parts.append(np.load(path, mmap_mode="r"))
    return (np.concatenate(parts) if len(parts) > 1 else parts[0])[split.rows]


def feature_key(encoder: Encoder, folder: Path, split: str) -> str:
    """Returns hex digits of weights and images: features are used again only if neither changed."""
    digest = hash_arrays(encoder.variables, repr(encoder.reads))
    digest.update(fingerprint_build(folder).encode())
    digest.update(split.encode())
    return digest.hexdigest()[:32]

"""Pictures of a transfer's images: how they are chosen, and what is drawn of them.

They are in pictures/ of the result's folder: saliency.png (not of a protocol without a head, such
as knn, nor of a cross-validation, whose models are several), neighbours.png (of a protocol that
learns), embedding.png, and projector/ for TensorBoard. films.csv says which images these are, by
their hashed ids: it alone holds any.
"""

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int, UInt8

from cxr_jax.data import places
from cxr_jax.data.splits import LabelledSplit, image_batches
from cxr_jax.experiments._transfer_inputs import extract
from cxr_jax.io.atomic import atomic_write_csv
from cxr_jax.report import panels
from cxr_jax.report.panels import Case, Marked, Neighbour
from cxr_jax.stats.subgroups import age_band
from cxr_jax.training.log import write_projector
from cxr_jax.transfer import _features
from cxr_jax.transfer._protocol import Result, Splits
from cxr_jax.weights.encoder import Encoder

Features = Callable[[str], Float[np.ndarray, "n d"]]

_MAX_LABELS, _MAX_CASES = 3, 9  # a picture of more would be too large for a page
_NUM_NEIGHBOURS = 5
_MAX_POINTS = 2000  # t-SNE of so many takes seconds
_SHOWN, _THUMBNAIL = 256, 32  # pixels a side


class _Chosen(NamedTuple):
    row: int  # of the test split
    label: int
    kind: str


def check(config: ml_collections.ConfigDict, test: LabelledSplit) -> None:
    """Raises ValueError for images in config.pictures.images that are not in the test split."""
    if config.pictures.draw:
        _named(config, test)


def draw(
    config: ml_collections.ConfigDict,
    encoder: Encoder,
    splits: Splits,
    result: Result,
    frozen: Features,
    folder: Path,
    learns: bool = True,
) -> None:
    """Draws all pictures of a result into folder/pictures, which is made anew.

    `frozen`: features of `encoder`, as it was before the protocol ran. `learns`: that protocol's.
    """
    folder = folder / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if result.shown:
        _draw_shown(splits.test, result, folder)
        return
    lower = _shares_below(result)
    chosen = choose(splits.test.targets, lower, result.scored, _named(config, splits.test))
    features = _of_trained(config, encoder, splits, result, frozen)
    _write_ids(folder / "films.csv", splits.test, result, chosen)
    cases = _cases(config, splits, result, chosen, features, lower)
    if result.head is not None:
        panels.saliency(folder / "saliency.png", cases)
    if learns:
        near = _neighbours(splits, features, chosen, result.fold)
        panels.neighbours(folder / "neighbours.png", cases, near)
    _draw_embedding(config, splits.test, result, features("test"), chosen, folder)
    print(f"Pictures of images: {folder}", flush=True)


def _draw_shown(test: LabelledSplit, result: Result, folder: Path) -> None:
    """Draws what a protocol chose to show of where labels are, and were found."""
    chosen = [_Chosen(one.row, one.label, one.kind) for one in result.shown]
    numbers, names = _numbers(chosen), test.label_names
    _write_ids(folder / "films.csv", test, result, chosen)
    rows = [one.row for one in chosen]
    if result.shown[0].heat is None:
        centre = test._replace(source=test.source.changed(fit="crop"))
        read = _read(centre, rows, _SHOWN)[..., 0]
        marked = [
            Marked(numbers[one.row], image, names[one.label], one.kind, one.truth, one.found)
            for one, image in zip(result.shown, read)
        ]
        panels.masks(folder / "masks.png", marked, [one.score for one in result.shown])
    else:
        read = _read(test, rows, _SHOWN)[..., 0]
        boxes = places.load_boxes(test, [(one.row, one.label) for one in chosen])
        cases = [
            Case(numbers[one.row], image, names[one.label], 1.0, np.nan, one.kind, one.heat, box)
            for one, image, box in zip(result.shown, read, boxes)
        ]
        panels.saliency(folder / "places.png", cases)
    print(f"Pictures of images: {folder}", flush=True)


def _shares_below(result: Result) -> Float[np.ndarray, "m k"]:
    """Returns the share of the other test images, of the own fold, that scored lower."""
    fold = np.zeros(len(result.scores), int) if result.fold is None else result.fold
    shares = np.empty(result.scores.shape)
    for own in (fold == one for one in np.unique(fold)):
        ranks = scipy.stats.rankdata(result.scores[own], method="min", axis=0)
        shares[own] = (ranks - 1) / max(own.sum() - 1, 1)
    return shares


def choose(
    targets: Float[np.ndarray, "m k"],
    scores: Float[np.ndarray, "m k"],
    scored: Bool[np.ndarray, " k"],
    named: Sequence[int] = (),
) -> list[_Chosen]:
    """Chooses the images to draw, and with regard to which label.

    Of each of the first three scored labels: its positive image with the highest score, that with
    the lowest, and its negative image with the highest. Or the `named` rows, with regard to as many
    of these labels as there is room for.
    """
    usable = np.flatnonzero(scored)[:_MAX_LABELS].tolist()
    if named:
        room = max(1, _MAX_CASES // len(named))
        return [_Chosen(row, label, "") for label in usable[:room] for row in named]
    found = []
    for label in usable:
        for value, place, least, kind in (
            (1, np.argmax, 1, "the highest score of all images with it"),
            (1, np.argmin, 2, "the lowest score of all images with it"),
            (0, np.argmax, 1, "the highest score of all images without it"),
        ):
            rows = np.flatnonzero(targets[:, label] == value)
            if len(rows) >= least:
                found.append(_Chosen(int(rows[place(scores[rows, label])]), label, kind))
    return found


def _named(config, test: LabelledSplit) -> list[int]:
    """Returns the rows of the images that the config names, each once."""
    wanted = [name.strip() for name in config.pictures.images.split(",") if name.strip()]
    if not wanted:
        return []
    place = {image: row for row, image in enumerate(test.hashed_ids()[0])}
    if unknown := [number for number, name in enumerate(wanted, start=1) if name not in place]:
        raise ValueError(
            f"config.pictures.images: no test image of {config.dataset} has the id given there "
            f"as number {', '.join(map(str, unknown))}. Images are named by the image_id of "
            "predictions.parquet, which is hashed: a config goes into files that are sent on "
            f"(python -m data_builders.reidentify {config.dataset} --data_dir={config.data.dir} "
            "lists them; the images of the task's projections take part)"
        )
    rows = list(dict.fromkeys(place[name] for name in wanted))
    if len(rows) > _MAX_CASES:
        raise ValueError(
            f"config.pictures.images names {len(rows)} images: at most {_MAX_CASES} fit in a "
            "picture"
        )
    return rows


def _of_trained(
    config, encoder: Encoder, splits: Splits, result: Result, frozen: Features
) -> Features:
    """Returns the features of the encoder as the protocol left it, or it was before all folds."""
    if result.fold is not None:
        return lambda name: frozen("test")  # all splits are this one
    if result.head is None or result.head.encoder is encoder:
        return frozen

    @functools.cache
    def trained(name: str) -> Float[np.ndarray, "n d"]:
        print(f"{result.head.encoder.name}: features of the {name} images for pictures", flush=True)
        return extract(result.head.encoder, getattr(splits, name), config.batch_size, name)

    return trained


def _read(split: LabelledSplit, rows, size: int) -> UInt8[np.ndarray, "n size size 1"]:
    """Reads each image once, whatever order and repetitions `rows` have."""
    once, place = np.unique(rows, return_inverse=True)
    return np.concatenate(list(image_batches(split.take(once), 64, size)))[place]


def _cases(
    config,
    splits: Splits,
    result: Result,
    chosen: Sequence[_Chosen],
    features: Features,
    lower: Float[np.ndarray, "m k"],
) -> list[Case]:
    test, rows = splits.test, [one.row for one in chosen]
    images = _read(test, rows, _SHOWN)[..., 0]
    boxes = places.load_boxes(test, [(one.row, one.label) for one in chosen])
    heat = [None] * len(chosen)
    if result.head is not None:
        read = _read(test, rows, result.head.encoder.image_size)
        average = np.mean(features("train"), axis=0, dtype=np.float64)
        for label in dict.fromkeys(one.label for one in chosen):
            of_label = [k for k, one in enumerate(chosen) if one.label == label]
            found = _features.contributions(result.head, read[of_label], label, average)
            for k, parts in zip(of_label, found):
                heat[k] = np.maximum(parts, 0)
    numbers = _numbers(chosen)
    cases = []
    for k, (row, label, kind) in enumerate(chosen):
        target, name = float(test.targets[row, label]), test.label_names[label]
        below = float(lower[row, label])
        cases.append(Case(numbers[row], images[k], name, target, below, kind, heat[k], boxes[k]))
    return cases


def _numbers(chosen: Sequence[_Chosen]) -> dict[int, int]:
    return {row: n for n, row in enumerate(dict.fromkeys(one.row for one in chosen), start=1)}


def _write_ids(path: Path, test: LabelledSplit, result: Result, chosen: Sequence[_Chosen]) -> None:
    """Writes the number of each image of predictions.parquet, a row for each of its labels."""
    numbers, image_ids = _numbers(chosen), test.hashed_ids()[0]
    rows = [("number", "image_id", "label", "target", "score")]
    for row, label, _ in chosen:
        target = test.targets[row, label]
        known = "" if np.isnan(target) else int(target)
        score = float(result.scores[row, label])
        rows.append((numbers[row], image_ids[row], test.label_names[label], known, score))
    atomic_write_csv(path, rows)


def _neighbours(
    splits: Splits,
    features: Features,
    chosen: Sequence[_Chosen],
    fold: Int[np.ndarray, " m"] | None,
) -> list[list[Neighbour]]:
    of_chosen = np.asarray(features("test"))[[one.row for one in chosen]]
    train = features("train")
    if fold is None:
        rows, cosines = _features.nearest(train, of_chosen, _NUM_NEIGHBOURS)
    else:
        others = [np.flatnonzero(fold != fold[one.row]) for one in chosen]
        found = [
            _features.nearest(train[own], of_chosen[[k]], _NUM_NEIGHBOURS)
            for k, own in enumerate(others)
        ]
        rows = np.stack([own[near[0]] for own, (near, _) in zip(others, found)])
        cosines = np.concatenate([cosine for _, cosine in found])
    images = _read(splits.train, rows.ravel(), _SHOWN)[..., 0].reshape(*rows.shape, _SHOWN, _SHOWN)
    return [
        [
            Neighbour(image, float(splits.train.targets[row, one.label]), float(cosine))
            for image, row, cosine in zip(*found)
        ]
        for one, *found in zip(chosen, images, rows, cosines)
    ]


def _draw_embedding(
    config,
    test: LabelledSplit,
    result: Result,
    features: Float[np.ndarray, "m d"],
    chosen: Sequence[_Chosen],
    folder: Path,
) -> None:
    """Draws at most 2,000 test images, the chosen ones among them, and TensorBoard's files."""
    rows = _some(len(test.rows), [one.row for one in chosen], config.seed)
    components = _features.principal(np.asarray(features)[rows])
    points = _features.tsne(components)
    names, scored = test.label_names, np.flatnonzero(result.scored).tolist()
    if points is not None:
        numbers, place = _numbers(chosen), {row: k for k, row in enumerate(rows.tolist())}
        marks = [
            {numbers[one.row]: place[one.row] for one in chosen if one.label == label}
            for label in scored
        ]
        targets, titles = test.targets[rows][:, scored], [names[k] for k in scored]
        panels.embedding(folder / "embedding.png", points, targets, titles, marks)
    shown = test.take(rows)
    thumbnails = np.concatenate(list(image_batches(shown, 64, _THUMBNAIL)))[..., 0]
    write_projector(folder / "projector", components, _metadata(shown), thumbnails)


def _some(count: int, wanted: Sequence[int], seed: int) -> Int[np.ndarray, " n"]:
    """Returns the rows of at most 2,000 of `count` images, drawn by seed, and those `wanted`."""
    if count <= _MAX_POINTS:
        return np.arange(count)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(count), wanted))
    others = others[: _MAX_POINTS - len(set(wanted))]
    return np.sort(np.concatenate([others, list(set(wanted))]))


def _metadata(images: LabelledSplit) -> dict[str, list[str]]:
    """Returns what TensorBoard can colour and filter images by: no ids."""
    columns = {
        name: [panels.word(target) for target in images.targets[:, k].tolist()]
        for k, name in enumerate(images.label_names)
    }
    unknown = ("",) * len(images.rows)
    columns["sex"] = [sex or "unknown" for sex in images.sexes or unknown]
    ages = images.ages or (np.nan,) * len(images.rows)
    # A band: great ages point to people.
    columns["age"] = [age_band(age) or "unknown" for age in ages]
    columns["projection"] = [one or "unknown" for one in images.projections or unknown]
    return columns

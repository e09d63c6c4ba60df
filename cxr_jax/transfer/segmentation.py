"""Segmentation: a small head on frozen maps marks findings and organs, pixel by pixel.

The labels are the dataset's masks. Each test image's score is its Dice coefficient, on the central
square of the image, the same for every encoder whatever square it reads; only images count on which
something is to be found, because Dice says nothing of others. IoU follows from Dice image by image.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float
from PIL import Image

from cxr_jax.config import Section
from cxr_jax.data import places
from cxr_jax.data.places import Masked
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.data.tasks import Task
from cxr_jax.transfer import _heads
from cxr_jax.transfer._protocol import Maps, Protocol, Result, Shown, Splits, Tools, examples
from cxr_jax.weights.encoder import Encoder

# Masks in training have so many pixels for one part of the map: more add cost, and nothing to see.
_FINER = 4


def make(config: Section) -> Protocol:
    """Returns the protocol "segmentation"; of the config it reads dense and seed."""
    _heads.check(config)
    refuse_folds(config, "segmentation")
    fields = config["dense"]
    names = ("learning_rates", "weight_decays", "warmup", "epochs", "min_steps", "max_steps")
    names += ("evaluations", "batch_size", "head", "side")
    names += ("hidden",) if fields["head"] == "convolutional" else ()
    settings = {name: fields[name] for name in names} | {"seed": config["seed"]}
    settings |= {name: list(settings[name]) for name in names[:2]}

    def method(exclusive: bool) -> tuple[str, ...]:
        kind = "one linear map of each place"
        if fields["head"] == "convolutional":
            kind = f"two 3x3 convolutions with {fields['hidden']} channels at twice the map's grid"
        return (
            _heads.told(
                config,
                f"Masks by a {fields['head']} head ({kind}; loss: cross-entropy and "
                "Dice), enlarged bilinearly",
            ),
            f"Dice of every test image on which something is to be found, on its central square of "
            f"{fields['side']} x {fields['side']} pixels, the same for every encoder.",
        )

    labels = partial(_labels, fields["side"])
    run = partial(_run, config)
    return Protocol("Segmentation", method, settings, run, labels=labels)


def refuse_folds(config: Section, protocol: str) -> None:
    """Raises ValueError for config.folds, which protocols on places do not have."""
    if config["folds"]:
        raise ValueError(
            f"config.folds={config['folds']}: protocol {protocol} scores on the dataset's own "
            "splits; give folds=0"
        )


def _labels(side: int, splits: Splits) -> Splits:
    """Makes masks the labels: 1 where one marks something, 0 where nothing, NaN without one."""

    def of_split(split: LabelledSplit) -> LabelledSplit:
        held = places.load_masks(split, side, "crop")
        targets = np.where(held.known, held.marked, np.nan).astype(np.float32)
        task = Task({name: name for name in held.names}, projections=split.task.projections)
        nothing = np.zeros(targets.shape, bool)
        return split._replace(
            targets=targets,
            uncertain=nothing,
            label_names=held.names,
            task=task,
            marked=held.digest,
        )

    return Splits(*map(of_split, splits))


def _run(config: Section, encoder: Encoder, splits: Splits, tools: Tools) -> Result:
    fields, names = config["dense"], splits.test.label_names
    maps = {name: tools.maps(name) for name in Splits._fields}
    grid = max(maps["train"].shape[1:3])
    side = min(fields["side"], _FINER * grid)
    train, validation = (
        places.load_masks(split, side, split.source.fit)
        for split in (splits.train, splits.validation)
    )
    not_scored = _lacking(train, validation)
    labels = np.setdiff1d(np.arange(len(names)), list(not_scored))
    if not len(labels):
        reasons = "; ".join(f"{names[k]}: {reason}" for k, reason in not_scored.items())
        raise ValueError(f"no mask can be learnt: {reasons}")
    rows = np.flatnonzero(train.known[:, labels].any(axis=1))
    measured = _heads.standard(maps["train"].at(rows))
    apply = partial(_logits, side=side)
    best, trainings = _fit(config, apply, measured, maps, (train, validation), labels, rows, tools)
    params = [jax.tree.map(jnp.asarray, one.params) for one in best]
    heads = [params[0 if len(params) == 1 else k] for k in range(len(labels))]
    truth = places.load_masks(splits.test, fields["side"], "crop")
    marked = _mark(
        heads, measured, maps["test"], truth.sizes, splits.test.source.fit, fields["side"]
    )
    inside = truth.inside[..., labels] >= 128
    counts = truth.known[:, labels] & inside.any(axis=(1, 2))
    scores = np.full((len(marked), len(names)), np.nan)
    scores[:, labels] = np.where(counts, dice(marked, inside), 0)
    empty = truth.known[:, labels] & ~inside.any(axis=(1, 2))
    wrongly = {
        names[k]: float(marked[empty[:, c], ..., c].any(axis=(1, 2)).mean())
        for c, k in enumerate(labels)
        if empty[:, c].any()
    }
    listed = ", ".join(f"{name} {share:.0%}" for name, share in wrongly.items())
    remarks = [_heads.at_the_edge(best, trainings)]
    remarks.append(f"Of images without it, something was marked on: {listed}." if listed else "")
    every = np.zeros(truth.known.shape, bool)
    every[:, labels] = counts
    column = {int(k): c for c, k in enumerate(labels)}
    shown = tuple(
        Shown(row, k, why, scores[row, k], inside[row, ..., column[k]], marked[row, ..., column[k]])
        for row, k, why in examples(scores, every, labels.tolist())
    )
    shape = maps["test"].shape[1:]
    chosen = [names[k] for k in labels] if len(best) > 1 else ["all"]
    return Result(
        scores=scores,
        not_scored=not_scored,
        summary=f"{fields['head']} head on maps of {' x '.join(map(str, shape))} at "
        f"{encoder.image_size} px, validation Dice {np.mean([one.score for one in best]):.3f}",
        facts={
            "map": list(shape),
            "marked_without": wrongly,
            "chosen": {
                name: {"learning_rate": one.rate, "weight_decay": one.decay, "step": one.step}
                for name, one in zip(chosen, best, strict=True)
            },
        },
        score_kind="dice",
        remarks=tuple(filter(None, remarks)),
        shown=shown,
    )


def _lacking(train: Masked, validation: Masked) -> dict[int, str]:
    """Says of which masks training or validation has none that marks anything."""
    lacking = {}
    for k in range(len(train.names)):
        both = {"training": train, "validation": validation}
        absent = [name for name, held in both.items() if not held.marked[:, k].any()]
        if absent:
            side = train.inside.shape[1]
            lacking[k] = (
                f"nothing is marked on any image of {' and '.join(absent)} at the {side} pixels a "
                "side of a head's training (thin things need finer maps: --config.read_size)"
            )
    return lacking


def _fit(
    config: Section,
    apply: Any,
    measured: _heads.Standard,
    maps: dict[str, Maps],
    masks: tuple[Masked, Masked],
    labels: np.ndarray,
    rows: np.ndarray,
    tools: Tools,
) -> tuple[list[_heads.Best], _heads.Grid]:
    """Trains the heads; a linear one is chosen mask by mask, a convolutional one for all."""
    (known, inside), (known_there, truth) = (
        (held.known[:, labels], held.inside[..., labels]) for held in masks
    )
    fields, width = config["dense"], maps["train"].shape[-1]
    shares = np.array(
        [inside[rows[known[rows, c]], ..., c].mean() / 255 for c in range(len(labels))]
    )
    params = initial(fields["head"], width, fields["hidden"], shares, config["seed"])
    grid = _heads.make_grid(config, len(rows))

    def loss(params: Any, batch: tuple[Array, Array, Array]) -> Float[Array, ""]:
        given, wanted, knows = batch
        return _loss(apply(params, measured(given)), wanted.astype(jnp.float32) / 255, knows)

    @jax.jit
    def judged(heads: Any, given: Array, wanted: Array) -> Float[Array, "g b k"]:
        there = wanted >= 128

        def of_head(params: Any) -> Float[Array, "b k"]:
            found = apply(params, measured(given)) > 0
            both, sizes = (found & there).sum((1, 2)), found.sum((1, 2)) + there.sum((1, 2))
            return 2 * both / jnp.maximum(sizes, 1)

        return jax.lax.map(of_head, heads)

    counts = known_there & (truth >= 128).any(axis=(1, 2))

    def judge(heads: Any) -> Float[np.ndarray, "g c"]:
        parts = _heads.chunks(maps["validation"], partial(judged, heads), beside=(truth,))
        each = np.concatenate(list(parts), axis=1)
        means = np.where(counts, each, 0).sum(axis=1) / np.maximum(counts.sum(axis=0), 1)
        return means if fields["head"] == "linear" else means.mean(axis=1, keepdims=True)

    feed = (
        (maps["train"].take(rows[batch]), inside[rows[batch]], known[rows[batch]])
        for batch in _heads.order(len(rows), grid.planned.batch_size, config["seed"])
    )
    return _heads.search(params, loss, feed, judge, grid, tools, "Dice"), grid


def initial(
    head: str, width: int, hidden: int, shares: Float[np.ndarray, " k"], seed: int
) -> dict[str, np.ndarray]:
    """Returns a head's parameters: everywhere it says how much of training images is marked."""
    rng, last = np.random.default_rng(seed), width
    params = {}
    if head == "convolutional":
        for name, channels in (("conv1", width), ("conv2", hidden)):
            scale = (2 / (9 * channels)) ** 0.5
            kernel = scale * rng.normal(size=(9 * channels, hidden))
            params |= {
                name: kernel.astype(np.float32),
                f"{name}_bias": np.zeros(hidden, np.float32),
            }
        last = hidden
    shares = np.clip(shares, 1e-4, 1 - 1e-4)
    params["bias"] = np.log(shares / (1 - shares)).astype(np.float32)
    return params | {"kernel": np.zeros((last, len(shares)), np.float32)}


def grid_logits(params: Any, maps: Float[Array, "b h w d"]) -> Float[Array, "b i j k"]:
    """Returns a head's logits at the map's places, of a convolutional head at twice as many."""
    x = maps
    if "conv1" in params:
        x = jax.nn.gelu(_convolve(x, params["conv1"]) + params["conv1_bias"])
        batch, rows, columns, channels = x.shape
        x = jax.image.resize(x, (batch, 2 * rows, 2 * columns, channels), "linear")
        x = jax.nn.gelu(_convolve(x, params["conv2"]) + params["conv2_bias"])
    return x @ params["kernel"] + params["bias"]


def _convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "n d"]) -> Float[Array, "b h w d"]:
    """Convolves by 3x3, as a product: XLA's CPU backend is slow at one kernel for each head."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = x.shape[1:3]
    parts = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, axis=-1) @ kernel


def _logits(params: Any, maps: Float[Array, "b h w d"], side: int) -> Float[Array, "b side side k"]:
    logits = grid_logits(params, maps)
    return jax.image.resize(logits, (len(maps), side, side, logits.shape[-1]), "linear")


def _loss(
    logits: Float[Array, "b s s k"], inside: Float[Array, "b s s k"], known: Bool[Array, "b k"]
) -> Float[Array, ""]:
    """Returns cross-entropy and 1 - Dice (over the batch, Milletari 2016), added over masks."""
    counts = known[:, None, None].astype(jnp.float32)
    cells = optax.sigmoid_binary_cross_entropy(logits, inside) * counts
    pixels = jnp.maximum(counts.sum((0, 1, 2)) * logits.shape[1] * logits.shape[2], 1)
    found = jax.nn.sigmoid(logits) * counts
    both, sizes = (found * inside).sum((0, 1, 2)), (found + inside * counts).sum((0, 1, 2))
    return (cells.sum((0, 1, 2)) / pixels + 1 - (2 * both + 1) / (sizes + 1)).sum()


def _mark(
    heads: list[Any],
    measured: _heads.Standard,
    maps: Maps,
    sizes: np.ndarray,
    fit: str,
    side: int,
) -> Bool[np.ndarray, "m side side k"]:
    """Marks the central square of every test image, the k-th mask by the k-th head."""

    @jax.jit
    def apply(given: Array) -> Float[Array, "b i j k"]:
        standardised = measured(given)
        if all(head is heads[0] for head in heads):
            return grid_logits(heads[0], standardised)
        columns = [grid_logits(head, standardised)[..., k] for k, head in enumerate(heads)]
        return jnp.stack(columns, axis=-1)

    logits = np.concatenate(list(_heads.chunks(maps, apply, axis=0)))
    marked = np.zeros((len(logits), side, side, len(heads)), bool)
    for row, (size, grid) in enumerate(zip(sizes, logits)):
        box = places.central(int(size[0]), int(size[1]), fit)
        for k in range(len(heads)):
            marked[row, ..., k] = enlarged(grid[..., k], side, box) > 0
    return marked


def enlarged(
    grid: Float[np.ndarray, "i j"],
    side: int,
    box: tuple[float, float, float, float] = (0, 0, 1, 1),
) -> Float[np.ndarray, "side side"]:
    """Enlarges a part of a grid (y0, x0, y1, x1, in fractions of it) to a square, bilinearly."""
    rows, columns = grid.shape
    y0, x0, y1, x1 = box
    whole = Image.fromarray(np.asarray(grid, np.float32))
    part = (x0 * columns, y0 * rows, x1 * columns, y1 * rows)
    return np.asarray(whole.resize((side, side), Image.Resampling.BILINEAR, part))


def dice(
    found: Bool[np.ndarray, "n s s k"], truth: Bool[np.ndarray, "n s s k"]
) -> Float[np.ndarray, "n k"]:
    """Returns the Dice coefficient (1945) of every image and mask; 0 where neither marks anything.

    >>> found, truth = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 1]], bool)
    >>> dice(found.reshape(1, 2, 2, 1), truth.reshape(1, 2, 2, 1)).tolist()
    [[0.4]]
    """
    both = (found & truth).sum(axis=(1, 2))
    sizes = found.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    return 2 * both / np.maximum(sizes, 1)

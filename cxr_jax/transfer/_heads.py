"""Small heads on frozen maps: trained at every rate and weight decay at once, chosen on validation.

Heads are so small that all trainings of the grid go through the same batches together; one pass
over the maps serves them all. The head of the best moment of any of them scores test, once.

Fields of config.dense:

learning_rates  one training each with every weight decay, at the peak of the schedule (AdamW)
weight_decays   of matrices; biases have none
warmup          share of the steps in which the rate rises from 0; then it falls as a cosine to 0
epochs          passes over the training images, but at least min_steps and at most max_steps
min_steps       the fewest steps of a training
max_steps       the most steps of a training
evaluations     how many moments of a training are judged on validation, the last step being one
batch_size      images per step; fewer where there are fewer images
heads           attentive: attention heads of a label's query, each of its share of the channels
head            segmentation: "linear", or "convolutional" (two 3x3 convolutions)
hidden          segmentation: channels between the two convolutions
side            segmentation: pixels of the squares on which masks are compared
probe           localisation: whose map of a label, "attentive" or "linear"
score           localisation: "pointing" (is the map's maximum in a box) or "box_iou"
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cxr_jax import xla
from cxr_jax.config import Section, check_fields, check_positive, check_values
from cxr_jax.transfer._protocol import Maps, Tools, positive_numbers
from cxr_jax.transfer._training import Plan, plan

_COUNTS = ("epochs", "min_steps", "max_steps", "evaluations", "batch_size")
_COUNTS += ("heads", "hidden", "side")
_OTHERS = ("learning_rates", "weight_decays", "warmup", "head", "probe", "score")
_CHUNK = 64  # images whose maps are on the device at once where nothing is trained


class Best(NamedTuple):
    """The head that was best on validation for one choice: a label, or all of them together."""

    params: Any
    score: float
    rate: float
    decay: float
    step: int


class Grid(NamedTuple):
    """The trainings: `rates` and `decays` of each, and the schedule that they share."""

    rates: tuple[float, ...]
    decays: tuple[float, ...]
    warmup: float
    planned: Plan


def check(config: Section) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns rates and decays, ascending. Raises ValueError for a field that makes no sense."""
    fields = config["dense"]
    check_fields(fields, "config.dense", (*_COUNTS, *_OTHERS))
    check_positive(config, [f"dense.{name}" for name in _COUNTS])
    check_values(
        *(fields, "config.dense"),
        ("warmup", 0 <= fields["warmup"] < 1, "a share of the steps, 0 or more and below 1"),
        ("max_steps", fields["max_steps"] >= fields["min_steps"], "min_steps or more"),
        ("head", fields["head"] in ("linear", "convolutional"), "'linear' or 'convolutional'"),
        ("probe", fields["probe"] in ("attentive", "linear"), "'attentive' or 'linear'"),
        ("score", fields["score"] in ("pointing", "box_iou"), "'pointing' or 'box_iou'"),
    )
    names = ("dense.learning_rates", "dense.weight_decays")
    return tuple(positive_numbers(config, name) for name in names)


def make_grid(config: Section, num_images: int) -> Grid:
    """Returns the trainings that config.dense asks for."""
    rates, decays = check(config)
    return Grid(rates, decays, config["dense"]["warmup"], plan(config["dense"], num_images, 1))


def told(config: Section, what: str) -> str:
    """Says for the report how a head was trained."""
    rates, decays = (", ".join(f"{value:g}" for value in held) for held in check(config))
    fields = config["dense"]
    return (
        f"{what}, on frozen maps (float16) in evaluation mode, standardised per channel on the "
        f"training images; AdamW at each of the rates {rates} with each of the weight decays "
        f"{decays}, for {fields['epochs']:g} epochs (at least {fields['min_steps']:,} steps, at "
        f"most {fields['max_steps']:,}); rate, decay and one of {fields['evaluations']} moments "
        "chosen on validation; the same for every encoder."
    )


class Standard(NamedTuple):
    """(maps - mean) * scale has mean 0 and deviation 1 in every channel of the training images."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]

    def __call__(self, maps: Array) -> Float[Array, "*n d"]:
        return (maps.astype(jnp.float32) - self.mean) * self.scale


def standard(maps: Maps) -> Standard:
    """Measures a split's maps; channels that do not vary become 0."""
    sums, squares, count = 0.0, 0.0, 0
    for start in range(0, len(maps), _CHUNK):
        part = maps.take(np.arange(start, min(start + _CHUNK, len(maps)))).astype(np.float64)
        flat = part.reshape(-1, part.shape[-1])
        sums, squares, count = sums + flat.sum(0), squares + (flat**2).sum(0), count + len(flat)
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    constant = deviation <= 1e-4 * np.abs(mean)  # float16 has three digits
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    return Standard(mean.astype(np.float32), scale.astype(np.float32))


def chunks(
    maps: Maps, apply: Callable[..., Array], axis: int = -2, beside: tuple[np.ndarray, ...] = ()
) -> Iterator[np.ndarray]:
    """Yields what `apply` makes of some images' maps at a time, in order; `axis` counts images.

    `beside` holds more arrays, a row per image, that it takes.
    """
    for start in range(0, len(maps), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(maps)))
        full = min(_CHUNK, 1 << (len(rows) - 1).bit_length())
        given = (maps.take(rows), *(array[rows] for array in beside))
        more = ((0, full - len(rows)),)
        padded = (np.pad(one, more + ((0, 0),) * (one.ndim - 1)) for one in given)
        yield np.asarray(apply(*map(jnp.asarray, padded))).take(np.arange(len(rows)), axis)


def order(count: int, batch_size: int, seed: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Yields rows of endless batches: every row once, in a new order, before any comes again."""
    rng, left = np.random.default_rng(seed), np.zeros(0, int)
    while True:
        while len(left) < batch_size:
            left = np.concatenate([left, rng.permutation(count)])
        yield left[:batch_size]
        left = left[batch_size:]


def search(
    params: Any,
    loss: Callable[[Any, Any], Float[Array, ""]],
    feed: Iterator[Any],
    judge: Callable[[Any], Float[np.ndarray, "g c"]],
    grid: Grid,
    tools: Tools,
    what: str,
) -> list[Best]:
    """Trains a head from `params` at every rate and decay; returns the best of every choice c.

    Args:
      loss: (params, batch) -> mean loss, of one head.
      feed: batches, as loss takes them.
      judge: heads, their leaves [g …] -> validation scores of each, higher is better.
      what: is scored, for the lines that are printed.

    Ties go to the earlier step, then to the lower rate, then to the smaller decay. Raises
    FloatingPointError where no training stays finite.
    """
    pairs = [(rate, decay) for rate in grid.rates for decay in grid.decays]
    rates, decays = (jnp.array(column, jnp.float32) for column in zip(*pairs))
    steps, adam = grid.planned.num_steps, optax.scale_by_adam()
    rising = round(grid.warmup * steps)
    schedule = optax.warmup_cosine_decay_schedule(0 if rising else 1, 1, rising, max(steps, 1))

    def one(params, moments, rate, decay, factor, batch):
        value, slope = jax.value_and_grad(loss)(params, batch)
        updates, moments = adam.update(slope, moments)

        def moved(leaf, update):
            shrunk = decay * leaf if leaf.ndim > 1 else 0
            return leaf - factor * rate * (update + shrunk)

        return jax.tree.map(moved, params, updates), moments, value

    @partial(jax.jit, donate_argnums=(0, 1), compiler_options=xla.options())
    def step(params, moments, number, batch):
        together = jax.vmap(one, in_axes=(0, 0, 0, 0, None, None))
        return together(params, moments, rates, decays, schedule(number), batch)

    heads = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(pairs), 0), params)
    moments = jax.vmap(adam.init)(heads)
    best: list[Best] = []
    for number in range(1, steps + 1):
        heads, moments, losses = step(heads, moments, number - 1, next(feed))
        if number not in grid.planned.moments:
            continue
        losses, scores = np.asarray(losses), np.asarray(judge(heads), np.float64)
        scores = np.where(np.isfinite(scores) & np.isfinite(losses)[:, None], scores, -np.inf)
        best = best or [Best(None, -np.inf, 0.0, 0.0, 0)] * scores.shape[1]
        for c, place in enumerate(scores.argmax(axis=0)):
            if scores[place, c] > best[c].score:
                chosen = jax.tree.map(lambda leaf, p=place: np.asarray(leaf[p]), heads)
                best[c] = Best(chosen, float(scores[place, c]), *pairs[place], number)
        mean = np.mean([one.score for one in best])
        tools.log(number, {"loss": float(np.min(losses)), "validation": float(mean)})
        tools.say(f"step {number} of {steps}: {what} on validation {mean:.3f}")
    if any(one.params is None for one in best):
        raise FloatingPointError(
            "no training of a head stayed finite; lower config.dense.learning_rates"
        )
    return best


def at_the_edge(best: list[Best], grid: Grid) -> str:
    """Says if a chosen rate is the lowest or highest tried; "" if none is."""
    ends = {grid.rates[0], grid.rates[-1]} if len(grid.rates) > 1 else set()
    at = sorted({one.rate for one in best} & ends)
    listed = " and ".join(f"{rate:g}" for rate in at)
    return f"A chosen learning rate is at the edge of those tried: {listed}." if at else ""

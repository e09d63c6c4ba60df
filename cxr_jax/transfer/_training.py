"""One fine-tuning of an encoder: batches, steps, the moments at which it is judged, scores."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from flax import linen as nn
from jaxtyping import Float, Shaped, UInt8
from ml_collections import ConfigDict

from cxr_jax import models, xla
from cxr_jax.data.loader import batches, labelled_batches
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.objectives import _lora, supervised
from cxr_jax.training import optim, sharding
from cxr_jax.training.step import TrainState, make_train_step
from cxr_jax.weights.encoder import Encoder

# Images go to the device larger than the views cut from them, as 256 to 224.
_MARGIN = 8 / 7
# Fewer images are read by threads: starting processes takes longer than reading them all.
_WORTH_PROCESSES = 2000
_QUIET_SECONDS = 5.0


class Plan(NamedTuple):
    """The same for every learning rate. moments: steps after which validation is scored."""

    batch_size: int
    num_steps: int
    moments: tuple[int, ...]


def plan(fields: ConfigDict, num_images: int, num_devices: int) -> Plan:
    """Returns steps and batches for `num_images` training images.

    A set smaller than a batch is trained on in batches of the largest power of two that it fills,
    whatever the number of devices, or of one image per device.
    """
    batch_size = fields.batch_size
    if num_images < batch_size:
        batch_size = max(1 << (num_images.bit_length() - 1), num_devices)
    steps = round(fields.epochs * num_images / batch_size)
    steps = min(max(steps, fields.min_steps), fields.max_steps)
    count = min(fields.evaluations, steps)
    return Plan(batch_size, steps, tuple(steps * (i + 1) // count for i in range(count)))


def with_rate(optimizer: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """Multiplies what `optimizer` gives by `rate`, which is part of the optimizer's state.

    So one compiled step serves every rate: that of the state decides.
    """

    def scale(updates: Any, rate: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda update: rate * update, updates), rate

    scaled = optax.GradientTransformation(lambda params: jnp.float32(rate), scale)
    return optax.chain(optimizer, scaled)


def with_layer_decay(
    optimizer: optax.GradientTransformation, model: nn.Module, layer_decay: float
) -> optax.GradientTransformation:
    """Multiplies the rate of `optimizer` by layer_decay for every depth below the head.

    The model's `depth` says how deep its parameters lie; the head is one deeper than the deepest.
    """
    if layer_decay == 1:
        return optimizer

    def scale(updates, _):
        (trained,) = set(updates) - {"head"}  # the encoder, or its adapters
        depths = {name: model.depth(name) for name in updates[trained]}
        head = 1 + max(depths.values())
        encoder = {
            name: jax.tree.map(lambda u, n=name: layer_decay ** (head - depths[n]) * u, below)
            for name, below in updates[trained].items()
        }
        return {trained: encoder, "head": updates["head"]}

    return optax.chain(optimizer, optax.stateless(scale))


class Trainer:
    """One encoder's compiled step and scores, for every learning rate.

    Where the task of `train` is exclusive, its targets must be as data/tasks.py's to_exclusive
    gives them: the loss and the scores are then those of a softmax over the classes.
    """

    def __init__(self, config, encoder: Encoder, train: LabelledSplit, planned: Plan, mesh):
        fields = config.finetune
        self._exclusive = train.task.exclusive
        self._config, self._encoder, self._train = config, encoder, train
        self._plan, self._mesh = planned, mesh
        model = models.build({**encoder.model, "dtype": fields.dtype})
        if hasattr(model, "norm_eval"):
            model = model.clone(norm_eval=fields.norm_eval)
        optimizer, schedule = optim.make_optimizer(
            {
                "name": fields.optimizer,
                "learning_rate": 1.0,  # with_rate multiplies it
                "warmup": round(fields.warmup * planned.num_steps),
                "weight_decay": fields.weight_decay,
            },
            planned.num_steps,
            planned.batch_size,
        )
        self._optimizer = with_layer_decay(optimizer, model, fields.layer_decay)
        size = encoder.image_size
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        features = jax.eval_shape(partial(model.apply, train=False), encoder.variables, image)
        view = {**fields.view, "size": size}
        start = (encoder.variables, features.shape[1], train.targets)
        self._objective = supervised.objective(model, *start, view, self._exclusive)
        self._unlabelled_size = 0
        if fields.mean_teacher.weight:
            most = min(fields.mean_teacher.unlabelled_batch_size, len(train.rest))
            self._unlabelled_size = most // mesh.size * mesh.size
            kind = (self._exclusive, fields.mean_teacher, planned.num_steps)
            self._objective = supervised.with_teacher(self._objective, model, view, *kind)
        self._objective = _lora.adapt(self._objective, fields.lora, "config.finetune.lora")
        step = make_train_step(self._objective, with_rate(self._optimizer, 1.0), schedule)
        options = xla.options()
        self._step = jax.jit(step, donate_argnums=0, compiler_options=options)
        self._scores = jax.jit(supervised.make_scores(model), compiler_options=options)

    @property
    def num_steps(self) -> int:
        """The steps of every training."""
        return self._plan.num_steps

    def train(
        self, rate: float, say: Callable[[str], None]
    ) -> Iterator[tuple[int, float, dict[str, Any]]]:
        """Yields (step, mean loss since the last, network to score) at every moment of the plan.

        The next step takes the network's memory. Raises FloatingPointError where a loss is not
        finite.
        """
        planned = self._plan
        key = jax.random.PRNGKey(self._config.seed)
        params, aux = self._objective.init(key, None)
        opt_state = with_rate(self._optimizer, rate).init(params)
        state = TrainState(jnp.zeros((), jnp.int32), params, aux, opt_state, key)
        state = sharding.put_replicated(state, self._mesh)
        feed = self._batches()
        losses, start, done = [], None, 0
        for step in range(1, planned.num_steps + 1):
            state, metrics = self._step(state, sharding.put_batch(next(feed), self._mesh))
            losses.append(metrics["loss"])
            done += planned.batch_size
            if step == 1:
                losses[0].block_until_ready()  # compiled now: what follows is the speed
                start, done = time.monotonic(), 0
            elif time.monotonic() - start > _QUIET_SECONDS:
                value = float(losses[-1])  # waits for the step, so that the speed is true
                speed = done / (time.monotonic() - start)
                say(f"step {step}/{planned.num_steps}  loss {value:.4f}  {speed:,.0f} images/s")
                start, done = time.monotonic(), 0
            if step in planned.moments:
                paused = time.monotonic()
                mean = np.mean(jax.device_get(losses))
                check_finite(step, "loss", mean)
                losses = []
                whole = _lora.whole(state.params, state.aux, self._config.finetune.lora)
                yield step, float(mean), supervised.scored_network(whole, state.aux)
                start += time.monotonic() - paused

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Returns endless batches of labelled images and, where the step takes them, of others."""
        train, size = self._train, round(self._encoder.image_size * _MARGIN)

        def how(images: int) -> tuple[int, int, int]:
            worth = images >= _WORTH_PROCESSES
            return size, self._config.seed, self._config.finetune.num_workers if worth else 0

        feed = labelled_batches(train, self._plan.batch_size, *how(len(train.rows)))
        if not self._unlabelled_size:
            return feed
        rest = train.source.choose(train.rest)
        others = batches(rest, self._unlabelled_size, *how(len(train.rest)))
        return (one | {"unlabelled": other["image"]} for one, other in zip(feed, others))

    def scores(
        self, network: dict[str, Any], images: Iterable[UInt8[np.ndarray, "b h w 1"]]
    ) -> Float[np.ndarray, "n k"]:
        """Returns log-odds, or log-probabilities of exclusive classes, image by image."""
        devices = self._mesh.size
        size = -(-self._config.batch_size // devices) * devices
        rows = []
        for chunk in images:
            for start in range(0, len(chunk), size):
                part = chunk[start : start + size]
                padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
                batch = sharding.put_batch({"image": padded}, self._mesh)
                rows.append(np.asarray(self._scores(network, batch["image"]))[: len(part)])
        logits = np.concatenate(rows).astype(np.float64)
        return scipy.special.log_softmax(logits, axis=1) if self._exclusive else logits


def check_finite(step: int, what: str, values: Shaped[np.ndarray, "..."] | np.floating) -> None:
    """Raises FloatingPointError unless all values are finite."""
    if not np.isfinite(values).all():
        raise FloatingPointError(f"at step {step} its {what} is no longer finite")

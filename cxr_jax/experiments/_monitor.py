"""Monitors an encoder while it trains: pictures of its views, and kNN on labelled images."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cxr_jax.augment import views
from cxr_jax.data.splits import image_batches, load_split
from cxr_jax.objectives import Objective
from cxr_jax.report.figures import views_grid
from cxr_jax.stats.auroc import auroc
from cxr_jax.training import distributed, sharding
from cxr_jax.training.log import NoWriter, Writer
from cxr_jax.training.step import TrainState
from cxr_jax.transfer.knn import knn_scores

Watch = Callable[[Writer | NoWriter, int, TrainState, dict[str, jax.Array]], dict[str, float]]

_PICTURED = 8  # images in the picture of augmented views


def make_monitor(config: ml_collections.ConfigDict, objective: Objective, mesh: Mesh) -> Watch:
    """Returns a function `(writer, step, state, batch)` that every process calls after each step.

    It draws when a picture is due, and returns {"knn_auroc"} when an evaluation is, else {}.
    """
    picture = _make_picture(config)
    evaluate_knn = _make_knn(config, objective, mesh) if config.online_knn.dataset else None

    def watch(
        writer: Writer | NoWriter, step: int, state: TrainState, batch: dict[str, jax.Array]
    ) -> dict[str, float]:
        due = step == 1 or step % config.checkpoint_every_steps == 0
        if due and distributed.is_first():
            writer.image(step, "views", picture(step, state, batch))
        last = step == config.num_train_steps
        if evaluate_knn and (last or step % config.online_knn.every_steps == 0):
            score = evaluate_knn(state)
            print(f"step {step}  kNN AUROC on {config.online_knn.dataset} validation: {score:.3f}")
            return {"knn_auroc": score}
        return {}

    return watch


def _make_picture(config) -> Callable[[int, TrainState, dict[str, jax.Array]], np.ndarray]:
    # An objective with one view shows two draws of it.
    pair = (config.views.a, config.views.get("b", config.views.a))

    @jax.jit
    def both_views(key, images):
        return tuple(
            views.augment_view(view_key, images, view)
            for view_key, view in zip(jax.random.split(key), pair)
        )

    def picture(step: int, state: TrainState, batch: dict[str, jax.Array]) -> np.ndarray:
        images = np.asarray(batch["image"].addressable_shards[0].data[:_PICTURED])
        # As NumPy, out of the hands of the other processes, which draw nothing.
        key = jax.random.fold_in(np.asarray(state.key), step)
        view_a, view_b = both_views(key, images)
        return views_grid(np.asarray(view_a), np.asarray(view_b))

    return picture


def _make_knn(config, objective: Objective, mesh: Mesh) -> Callable[[TrainState], float]:
    """Returns the macro AUROC of kNN on the validation split, training images as neighbours."""
    splits = [
        load_split(config.online_knn.dataset, config.data.dir, split, config.online_knn.task)
        for split in ("train", "validation")
    ]
    size = config.image_size
    pixels = [
        np.concatenate(list(image_batches(split, config.batch_size, size))) for split in splits
    ]
    embed = jax.jit(
        lambda params, aux, images: objective.features(params, aux, images / np.float32(255)),
        compiler_options=sharding.xla_options(),
        out_shardings=sharding.replicated(mesh),
    )

    def features(state: TrainState, images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), config.batch_size)
        parts = [images[start : start + config.batch_size] for start in starts]
        return np.concatenate([embed(state.params, state.aux, part) for part in parts])

    def evaluate(state: TrainState) -> float:
        train, validation = (features(state, images) for images in pixels)
        scores = knn_scores(train, splits[0].targets, validation)
        per_label = [auroc(splits[1].targets[:, k], scores[:, k]) for k in range(scores.shape[1])]
        return float(np.nanmean(per_label))

    return evaluate

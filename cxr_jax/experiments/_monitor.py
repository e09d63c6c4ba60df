"""Monitors a pretraining: finite numbers, embeddings that did not collapse, its views, kNN."""

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from cxr_jax import xla
from cxr_jax.augment import views
from cxr_jax.data.loader import read_images
from cxr_jax.data.order import Fields
from cxr_jax.data.source import Source
from cxr_jax.data.splits import image_batches, load_split
from cxr_jax.io.atomic import atomic_write
from cxr_jax.objectives import Objective
from cxr_jax.report.figures import views_grid
from cxr_jax.stats.auroc import auroc
from cxr_jax.training import distributed, sharding
from cxr_jax.training.log import NoWriter, Progress, Writer, say
from cxr_jax.training.step import MUST_BE_FINITE, TrainState
from cxr_jax.transfer.knn import knn_scores

Watch = Callable[[Writer | NoWriter, int, TrainState, dict[str, jax.Array]], dict[str, float]]

_PICTURED = 8  # images in the picture of augmented views
FILE = "nonfinite.csv"
_COLUMNS = ("step", "row", "image_id", "blank")
_COLLAPSED = 0.1  # embedding_std below this: all images look alike to the encoder
_ON_A_LINE = 1.5  # effective_rank below this: they differ in one direction alone
_ONE_PROTOTYPE = 1.5  # prototypes_used below this


@dataclasses.dataclass
class Health:
    """Looks at every step's numbers."""

    config: ml_collections.ConfigDict
    source: Source
    fields: Fields
    workdir: Path
    writer: Writer | NoWriter
    skipped: int  # steps that were not finite, up to now; first of all those before a checkpoint
    collapse_advice: str

    def __post_init__(self):
        self.path = self.workdir / FILE
        self.before: dict[str, float] = {}  # the numbers of the last step
        self.progress = Progress(self.config.num_train_steps, self.config.batch_size)

    def forget_after(self, step: int) -> None:
        """Takes back the images of steps after `step`, which are run again."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit()]
            with atomic_write(self.path) as temporary:
                _append(temporary, [row for row in rows if int(row[0]) <= step], new=True)

    def check(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Says whether this step's numbers are finite; False for one that config allows to skip.

        Raises FloatingPointError where they are not, and no more steps may be skipped.
        """
        values = {name: float(metrics[name]) for name in MUST_BE_FINITE}
        if all(map(math.isfinite, values.values())):
            self.before = values
            return True
        self.skipped += 1
        what = ", ".join(
            f"the {name.replace('_', ' ')} is {value}"
            for name, value in values.items()
            if not math.isfinite(value)
        )
        images = self._list_images(step, values) if distributed.is_first() else ""
        allowed = self.config.skip_nonfinite
        if self.skipped > allowed:
            before = f"{allowed} such steps were skipped before, as config allows. " * bool(allowed)
            raise FloatingPointError(
                f"step {step}: {what}. {before}{images}Lower config.optimizer.learning_rate or "
                "lengthen its warm-up, in a new --workdir; or skip such steps: the same command "
                f"with --config.skip_nonfinite, more than {allowed}. What was saved of this run is "
                "finite and stays"
            )
        self.writer.warn(step, f"{what}. Skipped ({self.skipped} of {allowed} allowed). {images}")
        return False

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Checks a step's numbers, and logs them when they are due."""
        config, finite = self.config, self.check(step, metrics)
        due = step % config.log_every_steps == 0 or step == config.num_train_steps
        if not due and "knn_auroc" not in metrics:
            return
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if config.skip_nonfinite:
            values = {name: value for name, value in values.items() if math.isfinite(value)}
            values["skipped_steps"] = self.skipped
        self.writer.scalars(step, values)
        if finite:
            self.writer.board_scalars(step, self.progress.report(step, values))
            self.warn_of_collapse(step, values)

    def warn_of_collapse(self, step: int, values: Mapping[str, float]) -> None:
        for words in collapse(values) if self.collapse_advice else ():
            self.writer.warn(step, f"{words}: {self.collapse_advice}")

    def _list_images(self, step: int, values: dict[str, float]) -> str:
        """Lists the batch's images in a file; returns the likely cause and which they are."""
        config, source = self.config, self.source
        size = config.batch_size
        positions = (config.seed, (step - 1) * size, step * size)
        rows = self.fields.image_rows(len(source), *positions)
        try:
            images = read_images(source, config.data.image_size, True, rows)
            blank = np.ptp(images.reshape(len(rows), -1), axis=1) == 0
            ids = source.columns(("image_id",))["image_id"]
            ids = source.hashed("image", [ids[row] for row in rows])
            places = source.rows[rows].tolist()  # in the split, of which some may be left out
            lines = [(step, *row) for row in zip(places, ids, blank.astype(int).tolist())]
            _append(self.path, lines, new=not self.path.exists())
        except (OSError, ValueError) as error:  # must not hide what is being reported
            return f"(Its images could not be listed: {error}.) "
        cause = likely_cause(step, values, self.before, int(blank.sum()))
        listed = ", ".join(map(str, places[:8])) + (", …" if len(rows) > 8 else "")
        return (
            f"Likely cause: {cause}. Its {len(rows)} images are rows {listed} of {source.name} "
            f"{source.split!r}; {self.path} names them (python -m "
            "data_builders.reidentify tells which files they are). "
        )


def likely_cause(
    step: int, values: Mapping[str, float], before: Mapping[str, float], num_blank: int
) -> str:
    """Returns why a step's numbers (MUST_BE_FINITE) are not finite, as far as they say.

    before: those of the step before, empty if not known. num_blank: images of one value throughout.

    >>> bad = {"loss": math.nan, "gradient_norm": math.nan, "parameter_norm": 1.0}
    >>> likely_cause(7, bad, {}, num_blank=2)
    '2 of its images are blank, one value throughout'
    """
    if math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"]):
        return "the update was too large: loss and gradient are finite, the new parameters are not"
    if num_blank:
        return f"{num_blank} of its images are blank, one value throughout"
    if step == 1:
        return "the images or the objective's fields: it is the first step, nothing is learnt yet"
    if before and before["gradient_norm"] > 0.1 * before["parameter_norm"]:
        return (
            f"the training diverged: the gradient's norm was {before['gradient_norm']:.3g} a step "
            f"before, at parameters of norm {before['parameter_norm']:.3g}; the learning rate is "
            "too high, or its warm-up too short"
        )
    if math.isfinite(values["loss"]):
        return "the gradient overflowed, in the half precision of config.model.dtype perhaps"
    return "a learning rate that is too high, or a warm-up that is too short"


def collapse(values: Mapping[str, float]) -> list[str]:
    """Returns a warning for each sign of collapse in a step's metrics (objectives/_networks.py).

    >>> collapse({"embedding_std": 0.9, "effective_rank": 1.2})
    ['the embeddings differ in one direction alone (effective rank 1.20)']
    """
    warnings = []
    if values.get("embedding_std", math.inf) < _COLLAPSED:
        warnings.append(
            "the embeddings have nearly collapsed "
            f"(spread {values['embedding_std']:.3f}; 1 is healthy)"
        )
    elif values.get("effective_rank", math.inf) < _ON_A_LINE:
        warnings.append(
            "the embeddings differ in one direction alone "
            f"(effective rank {values['effective_rank']:.2f})"
        )
    if values.get("prototypes_used", math.inf) < _ONE_PROTOTYPE:
        warnings.append(
            f"all images have the same prototype (prototypes used: {values['prototypes_used']:.2f})"
        )
    return warnings


def _append(path: Path, lines: list, new: bool) -> None:
    with path.open("w" if new else "a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([_COLUMNS, *lines] if new else lines)


def make_monitor(config: ml_collections.ConfigDict, objective: Objective, mesh: Mesh) -> Watch:
    """Returns a function `(writer, step, state, batch)` that every process calls after each step.

    It draws when a picture is due, and returns {"knn_auroc"} when an evaluation is, else {}.
    """
    # An objective with one view shows two draws of it.
    pair = (config.views.a, config.views.get("b", config.views.a))
    evaluate_knn = _make_knn(config, objective, mesh) if config.online_knn.dataset else None

    @jax.jit
    def both_views(key, images):
        keys = jax.random.split(key)
        return tuple(views.augment_view(k, images, view) for k, view in zip(keys, pair))

    def watch(
        writer: Writer | NoWriter, step: int, state: TrainState, batch: dict[str, jax.Array]
    ) -> dict[str, float]:
        due = step == 1 or step % config.checkpoint_every_steps == 0
        if due and distributed.is_first():
            # As NumPy, out of the hands of the other processes, which draw nothing.
            images = np.asarray(batch["image"].addressable_shards[0].data[:_PICTURED])
            key = jax.random.fold_in(np.asarray(state.key), step)
            writer.image(step, "views", views_grid(*map(np.asarray, both_views(key, images))))
        last = step == config.num_train_steps
        if evaluate_knn and (last or step % config.online_knn.every_steps == 0):
            score = evaluate_knn(state)
            say(f"step {step}  kNN AUROC on {config.online_knn.dataset} validation: {score:.3f}")
            return {"knn_auroc": score}
        return {}

    return watch


def _make_knn(config, objective: Objective, mesh: Mesh) -> Callable[[TrainState], float]:
    """Returns the macro AUROC of kNN on the validation split, training images as neighbours."""
    splits = [
        load_split(config.online_knn.dataset, config.data.dir, split, config.online_knn.task)
        for split in ("train", "validation")
    ]
    pixels = [
        np.concatenate(list(image_batches(split, config.batch_size, config.image_size)))
        for split in splits
    ]
    embed = jax.jit(
        lambda params, aux, images: objective.features(params, aux, images / np.float32(255)),
        compiler_options=xla.options(),
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

"""Pretraining: batches, steps, checkpoints, monitors; resumes where its workdir stands."""

import contextlib
import math
from functools import partial
from pathlib import Path

import jax
import ml_collections

from cxr_jax import checkpoint, hosts, objectives, train_state, training
from cxr_jax.data import exposure
from cxr_jax.data.source import Source, fingerprint, load_source
from cxr_jax.experiments import feed, initial, monitor, transfer
from cxr_jax.experiments.workdir import as_json, open_workdir
from cxr_jax.fields import check_positive
from cxr_jax.weights.encoder import Encoder
from cxr_jax.writer import NoWriter, Progress, Writer
from data_builders import ledger

_COLLAPSED = 0.1  # embedding_std below this: all films look alike to the encoder
_POSITIVE = (
    *("batch_size", "image_size", "num_train_steps", "checkpoint_every_steps"),
    *("keep_checkpoints", "log_every_steps", "data.image_size", "knn.every_steps"),
)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to config.num_train_steps, then transfers if config.transfer names a dataset."""
    after = config.transfer.copy_and_resolve_references()
    if after.dataset and hosts.count() > 1:
        raise ValueError(
            f"config.transfer.dataset={after.dataset}: a transfer runs as one process. Leave it "
            "empty here, and run configs/transfer.py with the workdir afterwards"
        )
    if after.dataset:
        transfer.check(after)  # before hours of training, not behind them
    train(config, workdir)
    if after.dataset:
        after.encoder = str(workdir.resolve())
        transfer.run(after, workdir / "transfer")
    else:
        print(
            "Next, see what it learned:\n"
            f"  python run.py --config=configs/transfer.py --config.encoder={workdir} "
            f"--config.dataset=<a labelled dataset> --config.data.dir={config.data.dir}"
        )


def train(
    config: ml_collections.ConfigDict, workdir: Path, stop_after: int | None = None
) -> train_state.TrainState:
    """Trains up to config.num_train_steps, or leaves, checkpoint saved, after step `stop_after`.

    Raises:
      ValueError, FileNotFoundError: a config that cannot run, before the workdir is touched.
      FloatingPointError: the loss or the gradient is no longer finite; nothing of it is saved.
    """
    check_positive(config, _POSITIVE)
    config, start = initial.find(config, workdir)
    source = _load_source(config)
    made = training.prepare(config, len(source))
    with contextlib.closing(feed.open_feed(config, source, made.mesh)) as batches:
        return _train(config, workdir, start, source, made, batches, stop_after)


def _train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    start: Encoder | None,
    source: Source,
    made: training.Training,
    batches: feed.Feed,
    stop_after: int | None,
) -> train_state.TrainState:
    watch = monitor.make_monitor(config, made.objective, made.mesh)
    hosts.agree("dataset", fingerprint(source))
    if start:
        hosts.agree("config.init", {"weights": initial.digest(start)})
    _open_workdir(config, workdir, source, start)
    state = made.create()
    manager = checkpoint.open_manager(workdir, config.keep_checkpoints)
    restored = checkpoint.restore(manager, state)
    if restored:
        state, data_state = restored
        batches.set_state(data_state)
        print(f"Resuming {workdir} after step {int(state.step)}.")
    elif start:
        state = initial.put(state, start)
    elif config.init:
        raise ValueError(f"{workdir / checkpoint.FOLDER} holds no whole checkpoint; remove it")
    first_step = int(state.step)
    hosts.agree("last checkpoint", {"step": first_step})
    _announce(config, source, state.params, made.mesh)
    writer = Writer(workdir, first_step) if hosts.is_first() else NoWriter()
    progress = Progress(config.num_train_steps, config.batch_size)
    log = partial(_log, config, writer, progress)
    end = min(config.num_train_steps, stop_after or config.num_train_steps)
    pending: tuple[int, dict[str, jax.Array]] | None = None
    for step in range(first_step + 1, end + 1):
        batch, waited = batches.take(pending and pending[1])
        progress.waited(waited)
        state, metrics = made.step(state, batch)
        if step == first_step + 1:
            progress.start(step)  # compiled now: what follows is the speed of the run
        # Metrics are fetched one step late, so that the next step is under way meanwhile. No more
        # than these two steps are: each holds a batch.
        if pending:
            jax.block_until_ready(pending[1])
            log(*pending)
        pending = (step, metrics | watch(writer, step, state, batch))
        if step % config.checkpoint_every_steps == 0 or step == end:
            _check_finite(step, jax.device_get(metrics))
            log(*pending)
            pending = None
            encoder = objectives.export_encoder(state.params, state.aux)
            checkpoint.save(manager, state, encoder, batches.get_state(), as_json(config))
    manager.wait_until_finished()
    manager.check_for_errors()
    manager.close()
    writer.close()
    print(f"Pretrained to step {int(state.step)}: {workdir}")
    return state


def _open_workdir(
    config: ml_collections.ConfigDict, workdir: Path, source: Source, start: Encoder | None
) -> None:
    """The first process opens it and writes down what will be seen; the others find it there."""
    if hosts.is_first():
        open_workdir(workdir, config)
        if start or not config.init:  # what that had seen may be gone when a run goes on
            num_films = config.num_train_steps * config.batch_size
            seen = exposure.seen(source, num_films, config.seed, config.data.pairs)
            before, unknown = initial.seen_before(config.init)
            seen = ledger.union(before, seen) if before else seen
            ledger.write(workdir / ledger.FILE, seen, unknown)
    hosts.agree("opening of the workdir", {})
    if not (workdir / "config.json").is_file():
        raise FileNotFoundError(
            f"{workdir} is not the folder that host 0 opened: --workdir must lie on a file system "
            "that all hosts share"
        )


def _load_source(config: ml_collections.ConfigDict) -> Source:
    """The films to train on, without those of config.data.exclude."""
    data = config.data
    source = load_source(data.name, data.dir, data.split, fields=("image",))
    excluded = [name.strip() for name in data.exclude.split(",") if name.strip()]
    if not excluded:
        return source
    kept = exposure.without(source, excluded, data.dir)
    print(f"Left out {len(source) - len(kept):,} films that {', '.join(excluded)} may share.")
    return kept


def _log(config, writer: Writer, progress: Progress, step: int, metrics: dict) -> None:
    due = step % config.log_every_steps == 0 or step == config.num_train_steps
    if not due and "knn_auroc" not in metrics:
        return
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    _check_finite(step, values)
    writer.scalars(step, values)
    writer.board_scalars(step, progress.report(step, values))
    if values["embedding_std"] < _COLLAPSED:
        print(
            f"WARNING: step {step}: the embeddings have nearly collapsed (spread "
            f"{values['embedding_std']:.3f}; 1 is healthy): lower the learning rate, or for BYOL "
            "raise objective.tau_base"
        )


def _check_finite(step: int, metrics: dict) -> None:
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(metrics[name]):
            raise FloatingPointError(
                f"step {step}: the {name.replace('_', ' ')} is {metrics[name]}. Lower "
                "config.optimizer.learning_rate or lengthen its warm-up, in a new --workdir; the "
                "last checkpoint of this one is finite and stays"
            )


def _announce(config, source, params, mesh) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    device = mesh.devices.flat[0]
    print(
        f"{config.objective.name} on {len(source):,} films of {source.name} ({source.split}), "
        f"{config.num_train_steps:,} steps of {config.batch_size} "
        f"({config.num_train_steps * config.batch_size / len(source):.1f} epochs), "
        f"{count / 1e6:.2f} million parameters, {mesh.size} x {device.device_kind}"
    )

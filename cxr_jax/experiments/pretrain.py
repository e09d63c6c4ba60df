"""Pretraining: batches, steps, checkpoints, monitors; resumes where its workdir stands."""

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import ml_collections
import orbax.checkpoint as ocp

from cxr_jax.data import exposure, seen_images
from cxr_jax.data.reports import keep_tokenizer
from cxr_jax.data.source import fingerprint
from cxr_jax.experiments import (
    _provenance,
    feed,
    health,
    initial,
    monitor,
    pretrain_inputs,
    text_start,
    transfer,
)
from cxr_jax.experiments._workdir import as_json, open_workdir
from cxr_jax.experiments.pretrain_inputs import Inputs
from cxr_jax.fields import check_positive
from cxr_jax.training import checkpoint, distributed, intact, preemption
from cxr_jax.training import state as train_state
from cxr_jax.training import step as training
from cxr_jax.training.log import NoWriter, Progress, Writer

_SKIPPED = "skipped_steps"  # beside the position of the data in a checkpoint
_POSITIVE = (
    *("batch_size", "image_size", "num_train_steps", "checkpoint_every_steps"),
    *("keep_checkpoints", "log_every_steps", "data.image_size", "knn.every_steps"),
)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains to config.num_train_steps, then transfers if config.transfer names a dataset."""
    after = config.transfer.copy_and_resolve_references()
    if after.dataset and distributed.count() > 1:
        raise ValueError(
            f"config.transfer.dataset={after.dataset}: a transfer runs as one process. Leave it "
            "empty here, and run configs/transfer.py with the workdir afterwards"
        )
    if after.dataset:
        transfer.check(after)  # before hours of training, not behind them
    train(config, workdir)
    preemption.check()
    if after.dataset:
        after.encoder = str(workdir)  # as typed: no name of a home folder gets into the results
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
      Preempted: the process was told to end; the state after the last step is saved.
    """
    check_positive(config, _POSITIVE)
    config, given = pretrain_inputs.open_inputs(config, workdir)
    made = training.prepare(config, len(given.source))
    opened = feed.open_feed(config, given.source, made.mesh, given.reports)
    with contextlib.closing(opened) as batches:
        return _train(config, workdir, given, made, batches, stop_after)


def _train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    given: Inputs,
    made: training.Training,
    batches: feed.Feed,
    stop_after: int | None,
) -> train_state.TrainState:
    watch = monitor.make_monitor(config, made.objective, made.mesh)
    source, reports = given.source, given.reports
    distributed.agree("dataset", fingerprint(source) | (reports.fingerprint() if reports else {}))
    distributed.agree("weights to start from", given.encoders | given.texts)
    _open_workdir(config, workdir, given)
    state = made.create()
    manager = checkpoint.open_manager(workdir, config.keep_checkpoints)
    restored, skipped = checkpoint.restore(manager, state), 0
    if restored:
        state, data_state = restored
        skipped = data_state.pop(_SKIPPED, 0)
        batches.set_state(data_state)
        print(f"Resuming {workdir} after step {int(state.step)}.")
    elif config.init and not given.start:
        raise ValueError(f"{workdir / checkpoint.FOLDER} holds no whole checkpoint; remove it")
    else:
        state = initial.put(state, given.start, made.objective) if given.start else state
        state = text_start.put(state, given.text) if given.text else state
    first_step = int(state.step)
    distributed.agree("last checkpoint", {"step": first_step})
    _announce(config, source, state.params, made.mesh)
    writer = Writer(workdir, first_step) if distributed.is_first() else NoWriter()
    watchdog = health.Health(
        config, source, workdir, writer, skipped, made.objective.collapse_advice
    )
    if distributed.is_first():
        watchdog.forget_after(first_step)
    progress = Progress(config.num_train_steps, config.batch_size)
    log = partial(_log, config, writer, progress, watchdog)
    end = min(config.num_train_steps, stop_after or config.num_train_steps)
    pending: tuple[int, dict[str, jax.Array]] | None = None

    def save() -> None:
        log(*pending)
        writer.sync()
        encoder = made.objective.exported(state.params, state.aux)
        where = batches.get_state() | {_SKIPPED: watchdog.skipped}
        checkpoint.save(manager, state, encoder, where, as_json(config))

    with preemption.Stop() as stop, _saving(manager):
        for step in range(first_step + 1, end + 1):
            if stop.before(step):
                break
            batch, waited = batches.take(pending and pending[1])
            progress.waited(waited)
            state, metrics = made.step(state, batch)
            if step == first_step + 1:
                progress.start(step)  # compiled now: what follows is the speed of the run
            # Metrics are fetched one step late, so that the next step is under way meanwhile. No
            # more than these two steps are: each holds a batch.
            if pending:
                jax.block_until_ready(pending[1])
                log(*pending)
            pending = (step, metrics | watch(writer, step, state, batch))
            if step % config.checkpoint_every_steps == 0 or step == end:
                save()
                pending = None
        if pending:
            save()
        checkpoint.finish(manager)
        writer.close()
    if int(state.step) < end:
        raise preemption.Preempted(f"{workdir}: saved after step {int(state.step)}", saved=True)
    print(f"Pretrained to step {int(state.step)}: {workdir}")
    return state


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
    """A run that ends on bad numbers finishes the save under way, which is of good ones."""
    try:
        yield
    except FloatingPointError:
        with contextlib.suppress(Exception):  # must not hide why the run ends
            checkpoint.finish(manager)
        raise


def _open_workdir(config: ml_collections.ConfigDict, workdir: Path, given: Inputs) -> None:
    """The first process opens it and writes down what will be seen; the others find it there."""
    if distributed.is_first():
        open_workdir(workdir, config)
        intact.set_damaged_aside(workdir / checkpoint.FOLDER)
        _provenance.write(workdir, config, given.marks, given.encoders, given.texts)
        if given.start or not config.init:  # what that had seen may be gone when a run goes on
            num_images = config.num_train_steps * config.batch_size
            seen = exposure.seen(given.source, num_images, config.seed, config.data.pairs)
            before, unknown = initial.seen_before(config.init)
            seen = seen_images.union(before, seen) if before else seen
            seen_images.write(workdir / seen_images.FILE, seen, unknown)
        if given.reports:
            keep_tokenizer(given.reports, workdir)
    distributed.agree("opening of the workdir", {})
    if not (workdir / "config.json").is_file():
        raise FileNotFoundError(
            f"{workdir} is not the folder that host 0 opened: --workdir must lie on a file system "
            "that all hosts share"
        )


def fingerprints(config: ml_collections.ConfigDict) -> dict[str, str | None]:
    """The images that the config trains on, as provenance.json marks them."""
    return pretrain_inputs.mark(config, pretrain_inputs.load_images(config))


def _log(
    config,
    writer: Writer,
    progress: Progress,
    watchdog: health.Health,
    step: int,
    metrics: dict,
) -> None:
    finite = watchdog.check(step, metrics)
    due = step % config.log_every_steps == 0 or step == config.num_train_steps
    if not due and "knn_auroc" not in metrics:
        return
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if config.skip_nonfinite:
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        values["skipped_steps"] = watchdog.skipped
    writer.scalars(step, values)
    if finite:
        writer.board_scalars(step, progress.report(step, values))
        watchdog.warn_of_collapse(step, values)


def _announce(config, source, params, mesh) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    device = mesh.devices.flat[0]
    print(
        f"{config.objective.name} on {len(source):,} images of {source.name} ({source.split}), "
        f"{config.num_train_steps:,} steps of {config.batch_size} "
        f"({config.num_train_steps * config.batch_size / len(source):.1f} epochs), "
        f"{count / 1e6:.2f} million parameters, {mesh.size} x {device.device_kind}"
    )

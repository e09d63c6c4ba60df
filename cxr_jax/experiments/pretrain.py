"""Pretraining, top to bottom: config, data, objective, state, steps, checkpoints, what comes next.

A run on the workdir of one that ended goes on from its newest whole checkpoint, bit for bit.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import orbax.checkpoint as ocp

from cxr_jax import weights
from cxr_jax.config import check_positive, check_values, flat
from cxr_jax.data import seen_images
from cxr_jax.data.order import Fields
from cxr_jax.data.source import Source
from cxr_jax.experiments import _feed, _monitor, _workdir, transfer
from cxr_jax.experiments import _pretrain_inputs as inputs
from cxr_jax.experiments._workdir import as_json, open_workdir
from cxr_jax.io import COMMAND
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.objectives import _frozen, _lora
from cxr_jax.objectives._average import average_with_start
from cxr_jax.training import checkpoint, distributed, loggers, preemption
from cxr_jax.training import step as train_step
from cxr_jax.training.log import NoWriter, Writer
from cxr_jax.training.step import TrainState

_SKIPPED = "skipped_steps"  # beside the position of the data in a checkpoint
_MANY = 100_000  # images: a GPU's work
_POSITIVE = (
    *("batch_size", "image_size", "num_train_steps", "checkpoint_every_steps"),
    *("keep_checkpoints", "log_every_steps", "data.image_size", "online_knn.every_steps"),
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
        preset = ":zero_shot" if "reports" in config.data else ""
        baselines = f"--config.baselines=random,{config.init} " if config.init else ""
        print(
            "Next, see what it learned:\n"
            f"  {COMMAND} --config=configs/transfer.py{preset} --config.encoder={workdir} "
            f"{'' if preset else baselines}"
            f"--config.dataset=<a labelled dataset> --config.data.dir={config.data.dir}"
        )


def train(
    config: ml_collections.ConfigDict, workdir: Path, stop_after: int | None = None
) -> TrainState:
    """Trains up to config.num_train_steps, or ends, checkpoint saved, after step `stop_after`.

    Raises:
      ValueError, FileNotFoundError: a config that cannot run, before the workdir is touched.
      FloatingPointError: the loss or the gradient is no longer finite; nothing of it is saved.
      Preempted: the process was told to end; the state after the last step is saved.
    """
    check_positive(config, _POSITIVE)
    wanted = "0 (threads decode) or so many processes"
    check_values(config.data, "config.data", ("num_workers", config.data.num_workers >= 0, wanted))
    loggers.check(config.loggers)

    begun = (workdir / checkpoint.FOLDER).is_dir()

    # Data and objective. Until all that can be refused has been, the workdir is only looked into.
    config, start = inputs.read_start(config, workdir)
    _workdir.check_config(workdir, config)  # before the images, which a field of it may choose
    source = inputs.load_images(config)
    images = inputs.fingerprint(config, source)
    inputs.check_images(config, source, images, workdir)
    objective = _lora.adapt(_frozen.build(config), config.lora, "config.lora")
    if config.start_share:
        objective = average_with_start(objective, config)
    source, fields = inputs.open_fields(config, objective, source, workdir)

    # Optimizer, devices, compiled step; batches in an order that config.seed fixes.
    training = train_step.prepare(config, objective, len(source))
    inputs.check_declared(config, training)
    with contextlib.closing(_feed.open_feed(config, source, training.mesh, fields)) as batches:
        monitor = _monitor.make_monitor(config, objective, training.mesh)

        # The workdir. From here on files are written, by the first process alone.
        starts = inputs.fingerprint_start(config, start)
        distributed.agree("dataset", images | dict(fields.fingerprint))
        distributed.agree("weights to start from", starts["encoders"] | starts["texts"])
        if distributed.is_first():
            open_workdir(workdir, config)
            checkpoint.set_damaged_aside(workdir / checkpoint.FOLDER)
            _workdir.write_provenance(workdir, config, images, **starts)
            _write_inputs(config, workdir, source, fields, start)
        _check_shared(workdir)

        # The state: of the newest checkpoint, or new, with the weights to start from.
        state = training.create()
        manager = checkpoint.open_manager(workdir, config.keep_checkpoints)
        restored, skipped = checkpoint.restore(manager, state), 0
        if restored:
            state, data_state = restored
            skipped = data_state.pop(_SKIPPED, 0)
            batches.set_state(data_state)
            print(f"Resuming {workdir} after step {int(state.step)}.")
        elif config.init and not start.encoder:
            raise ValueError(f"{workdir / checkpoint.FOLDER} holds no whole checkpoint; remove it")
        else:
            if begun:
                print(f"{workdir} holds no whole checkpoint: from the start again.")
            state = inputs.put_start(state, start, objective)
        first_step = int(state.step)
        distributed.agree("last checkpoint", {"step": first_step})
        _announce(config, source, state.params, training)

        # Logs, and the guard that ends or skips steps whose numbers are not finite.
        writer = NoWriter()
        if distributed.is_first():
            writer = Writer(workdir, first_step, config.loggers, dict(flat(as_json(config))))
        health = _monitor.Health(
            config, source, fields, workdir, writer, skipped, objective.collapse_advice
        )
        if distributed.is_first():
            health.forget_after(first_step)
        end = min(config.num_train_steps, stop_after or config.num_train_steps)
        pending: tuple[int, dict[str, jax.Array]] | None = None

        def save() -> None:
            health.log(*pending)
            writer.sync()
            encoder = objective.exported(state.params, state.aux)
            text = objective.text and objective.text(state.params, state.aux)
            where = batches.get_state() | {_SKIPPED: health.skipped}
            checkpoint.save(manager, state, encoder, where, as_json(config), text)

        with preemption.Stop(training.mesh) as stop, _saving(manager):
            for step in range(first_step + 1, end + 1):
                if stop.before():
                    break
                batch, waited = batches.take(pending and pending[1])
                health.progress.waited(waited)
                state, metrics = training.step(state, batch)
                if step == first_step + 1:
                    health.progress.start(
                        step
                    )  # compiled now: what follows is the speed of the run
                # Metrics are fetched one step late, so that the next step is under way meanwhile.
                # No more than these two steps are: each holds a batch.
                if pending:
                    jax.block_until_ready(pending[1])
                    health.log(*pending)
                health.progress.draw(step)
                pending = (step, metrics | monitor(writer, step, state, batch))
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


def fingerprints(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the fingerprint of the images that the config trains on, as in provenance.json."""
    return inputs.fingerprint(config, inputs.load_images(config))


def _write_inputs(
    config: ml_collections.ConfigDict,
    workdir: Path,
    source: Source,
    fields: Fields,
    start: inputs.Start,
) -> None:
    """Writes the list of images that the encoder will have seen, and the files of the fields."""
    if start.encoder or not config.init:  # what that had seen may be gone when a run goes on
        num_images = config.num_train_steps * config.batch_size
        seen = seen_images.seen_in_training(source, num_images, config.seed, fields)
        before, unknown = weights.seen_before(config.init)
        seen = seen_images.union(before, seen) if before else seen
        seen_images.write(workdir / seen_images.FILE, seen, unknown)
    for name, text in fields.files.items():
        if not (workdir / name).is_file():
            atomic_write_text(workdir / name, text)


def _check_shared(workdir: Path) -> None:
    """Waits for the first process to open the workdir, and checks that it is there for this one."""
    distributed.agree("opening of the workdir", {})
    if not (workdir / "config.json").is_file():
        raise FileNotFoundError(
            f"{workdir} is not the folder that host 0 opened: --workdir must lie on a file system "
            "that all hosts share"
        )


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
    """A run that ends on bad numbers finishes the save under way, which is of good ones."""
    try:
        yield
    except FloatingPointError:
        with contextlib.suppress(Exception):  # must not hide why the run ends
            checkpoint.finish(manager)
        raise


def _announce(config, source, params, training) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    mesh, device = training.mesh, training.mesh.devices.flat[0]
    print(
        f"{config.objective.name} on {len(source):,} images of {source.name} ({source.split}), "
        f"{config.num_train_steps:,} steps of {config.batch_size} "
        f"({config.num_train_steps * config.batch_size / len(source):.1f} epochs), "
        f"{count / 1e6:.2f} million parameters in training, {mesh.size} x {device.device_kind}",
        flush=True,
    )
    many = config.num_train_steps * config.batch_size > _MANY
    if device.platform == "cpu" and config.model.get("dtype") == "bfloat16" and many:
        seconds = config.num_train_steps * train_step.estimate_seconds(training, "bfloat16")
        print(
            "WARNING: this config is meant for GPUs or TPUs, and JAX finds a CPU alone: about "
            f"{seconds / 86400:,.1f} days to the end. For a CPU take its preset :cpu or :adapt "
            f"({COMMAND} --help; docs/configs.md); JAX for GPUs: pip install '.[cuda]'",
            flush=True,
        )

"""Orbax checkpoints of a pretraining run: state, encoder, data position and config, item by item.

`encoder` is an item of its own, so that a transfer reads it without the optimizer or the objective.
Hashes of all files are saved with each (intact.py): a damaged one is passed over.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cxr_jax.training import distributed, intact
from cxr_jax.training.state import TrainState

FOLDER = "checkpoints"


def exists(workdir: Path) -> bool:
    """Whether a run has saved a checkpoint there."""
    return any(entry.name.isdecimal() for entry in (workdir / FOLDER).glob("*"))


def open_manager(workdir: Path, max_to_keep: int) -> ocp.CheckpointManager:
    """Asynchronous saves into workdir/checkpoints; the newest `max_to_keep` stay."""
    folder = (workdir / FOLDER).resolve()
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=partial(_seal, folder)),
        ),
    )


def _seal(folder: Path) -> None:
    """Orbax calls it between the last file of a save and the renaming that makes it valid."""
    if distributed.is_first():
        for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
            for item in intact.ITEMS:
                _forget_place(unfinished / item)
            intact.write_hashes(unfinished)
        _forget_places(folder)


def _forget_places(folder: Path) -> None:
    for saved in folder.glob("[0-9]*"):
        if saved.name.isdecimal():
            _forget_place(saved)


def _forget_place(folder: Path) -> None:
    """Orbax leaves a sign of its success that says where: workdirs are sent on."""
    sign = folder / "commit_success.txt"
    if sign.is_file():
        sign.write_text("")


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    encoder: Any,
    data_state: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Starts a save and returns; a save that failed in the background raises here or at close.

    Raises OSError as `finish`.
    """
    with _naming(manager):
        manager.check_for_errors()
        manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                encoder=ocp.args.StandardSave(encoder),
                data=ocp.args.JsonSave(data_state),
                config=ocp.args.JsonSave(config),
            ),
        )


def restore(
    manager: ocp.CheckpointManager, like: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint, placed like `like` (shapes, types, shardings); None without one."""
    step = manager.latest_step()
    if step is None:
        return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
    )
    try:
        restored = manager.restore(step, args=items)
    except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged file
        older = max((other for other in manager.all_steps() if other != step), default=0)
        raise ValueError(
            f"checkpoint {manager.directory}/{step} cannot be read: its files are as they were "
            "saved, by another version of this code perhaps; or they were saved before hashes were "
            f"kept, and are damaged. Remove that folder to go on from step {older}."
        ) from error
    return TrainState(**restored.state), restored.data


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits for the save under way and closes.

    Raises:
      OSError: the file system took no more; what had been saved before stands.
    """
    with _naming(manager):
        manager.wait_until_finished()
        manager.check_for_errors()
    if distributed.is_first():
        _forget_places(Path(manager.directory))
    manager.close()


@contextlib.contextmanager
def _naming(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Says in a line what tensorstore says in ten where a disk is full."""
    try:
        yield
    except Exception as error:
        steps = ", ".join(map(str, sorted(manager.all_steps()))) or "none"
        code = _file_system_error(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"{os.strerror(code)}: a checkpoint could not be saved; those of before stand (steps: {steps})",
            str(manager.directory),
        ) from error


def _file_system_error(error: BaseException) -> int | None:
    """The errno of a full disk, a quota or a limit on files, in an error or in its words."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return code
    return None

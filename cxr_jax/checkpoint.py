"""Orbax checkpoints of a pretraining run: state, encoder, data position and config, item by item.

`encoder` is an item of its own, so that a transfer reads it without the optimizer or the objective.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cxr_jax.train_state import TrainState

FOLDER = "checkpoints"


def exists(workdir: Path) -> bool:
    """Whether a run has saved a checkpoint there."""
    return any(entry.name.isdigit() for entry in (workdir / FOLDER).glob("*"))


def open_manager(workdir: Path, max_to_keep: int) -> ocp.CheckpointManager:
    """Asynchronous saves into workdir/checkpoints; the newest `max_to_keep` stay."""
    return ocp.CheckpointManager(
        (workdir / FOLDER).resolve(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        ),
    )


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    encoder: Any,
    data_state: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Starts a save and returns; a save that failed in the background raises here or at close."""
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
            f"checkpoint {manager.directory}/{step} is damaged or of another code version. Remove "
            f"that folder to go on from step {older}."
        ) from error
    return TrainState(**restored.state), restored.data

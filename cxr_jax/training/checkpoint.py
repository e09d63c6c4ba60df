"""Orbax checkpoints of a pretraining run: state, encoder, data position and config, item by item.

`encoder` is an item of its own, so that a transfer reads it without the optimizer or the objective;
so is `text`, the text tower of an image-text objective, which other runs do not have.
Hashes of all files are saved with each, because Orbax and tensorstore read most flipped bytes as
other numbers, without a word: a damaged checkpoint is passed over.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cxr_jax.io.atomic import atomic_write
from cxr_jax.training import distributed
from cxr_jax.training.step import TrainState

FOLDER = "checkpoints"
HASHES = "sha256.json"
ITEMS = ("state", "encoder", "data", "config")  # subfolders of a checkpoint
TEXT = "text"  # that of some


def steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in the folder of that name, whole or not, ascending."""
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal())


def open_manager(workdir: Path, max_to_keep: int) -> ocp.CheckpointManager:
    """Opens workdir/checkpoints for asynchronous saves; the newest `max_to_keep` stay."""
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
    """Ends a save: Orbax calls it between the last file and the renaming that makes it valid.

    sha256.json then maps each file of the items to its size and SHA-256; all is on the disk.
    """
    if not distributed.is_first():
        return
    for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
        _empty_signs(unfinished)
        found = _hash_items(unfinished, (*ITEMS, TEXT), sync=True)
        with atomic_write(unfinished / HASHES) as temporary, temporary.open("w") as file:
            json.dump(found, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
    _empty_signs(folder)


def _empty_signs(folder: Path) -> None:
    """Empties the signs of success in which Orbax names folders: workdirs are sent on."""
    for sign in folder.glob("*/commit_success.txt"):
        sign.write_text("")


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    encoder: Any,
    data_state: dict[str, Any],
    config: dict[str, Any],
    text: dict[str, Any] | None = None,
) -> None:
    """Starts a save and returns; a save that failed in the background raises here or at close.

    Raises OSError as `finish`.
    """
    items = {TEXT: ocp.args.StandardSave(text)} if text else {}
    with _naming(manager):
        manager.check_for_errors()
        manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                encoder=ocp.args.StandardSave(encoder),
                data=ocp.args.JsonSave(data_state),
                config=ocp.args.JsonSave(config),
                **items,
            ),
        )


def restore(
    manager: ocp.CheckpointManager, like: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
    """Reads the newest checkpoint, placed like `like` (shapes, shardings); None without one."""
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


def read_item(item: Path) -> Any:
    """Reads an item of arrays of a checkpoint as NumPy, whatever devices it was saved on.

    Raises ValueError where it is damaged.
    """
    try:
        # The handler: a Checkpointer asks for a whole checkpoint's metadata, which no item has.
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            saved = handler.metadata(item.resolve()).tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            order = ocp.args.PyTreeRestore(restore_args=as_numpy)
            return handler.restore(item.resolve(), args=order)
    except Exception as error:  # Orbax and tensorstore raise many kinds for a damaged file
        raise ValueError(
            f"{item} is damaged; remove checkpoint {item.parent} to use the one before it"
        ) from error


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits for the save under way and closes.

    Raises OSError where the file system took no more; earlier checkpoints stay.
    """
    with _naming(manager):
        manager.wait_until_finished()
        manager.check_for_errors()
    if distributed.is_first():
        _empty_signs(Path(manager.directory))
    manager.close()


@contextlib.contextmanager
def _naming(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Says in one line what tensorstore says in ten where a disk, a quota or a limit is full."""
    try:
        yield
    except Exception as error:
        whole = ", ".join(map(str, sorted(manager.all_steps()))) or "none"
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                raise OSError(
                    code,
                    f"{os.strerror(code)}: a checkpoint could not be saved; earlier ones stay "
                    f"(steps: {whole})",
                    str(manager.directory),
                ) from error
        raise


def find_damage(folder: Path, items: tuple[str, ...]) -> str:
    """Returns what is wrong with these items of a checkpoint, in words; "" if nothing is.

    A checkpoint from before hashes were kept passes if all items are there.
    """
    for item in items:
        if not (folder / item).is_dir() or not any((folder / item).iterdir()):
            return f"{item} is missing or empty"
    if not (folder / HASHES).exists():
        return ""
    try:
        known = json.loads((folder / HASHES).read_text()).items()
    except (ValueError, AttributeError, RecursionError):
        return f"{HASHES} is not readable"
    expected = {path: mark for path, mark in known if path.partition("/")[0] in items}
    if not expected:
        return f"{HASHES} names no file of it"
    try:
        found = _hash_items(folder, items)
    except OSError as error:
        return f"it cannot be read: {error}"
    for path, mark in expected.items():
        if found.get(path) != mark:
            return f"{path} is {'not as it was saved' if path in found else 'missing'}"
    return ""


def _hash_items(folder: Path, items: tuple[str, ...], sync: bool = False) -> dict[str, list]:
    found = {}
    for path in sorted(path for item in items for path in (folder / item).rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if sync:
                    os.fsync(file.fileno())
            found[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return found


def set_damaged_aside(folder: Path) -> None:
    """Moves damaged checkpoints out of `folder`, down to the newest whole one, and says so.

    They go to a folder beside it, damaged_checkpoints. One process calls it, before `open_manager`.
    Raises ValueError where all are damaged; nothing is moved then.
    """
    step, damage = _search(folder, ITEMS)
    for damaged, found in damage.items():
        aside = folder.with_name(f"damaged_{folder.name}") / str(damaged)
        aside.parent.mkdir(exist_ok=True)
        while aside.exists():
            aside = aside.with_name(f"{aside.name}-again")
        (folder / str(damaged)).rename(aside)
        print(
            f"WARNING: checkpoint {damaged} is damaged ({found}). It is moved to {aside}, and the "
            f"run goes on from step {step}."
        )


def newest_whole(folder: Path, item: str) -> Path | None:
    """Returns the item of the newest checkpoint where it is whole; None without any checkpoint.

    Prints which ones are passed over. Raises ValueError where all are damaged.
    """
    step, damage = _search(folder, (item,))
    for damaged, found in damage.items():
        print(f"WARNING: {folder / str(damaged)} is damaged ({found}): step {step} is used.")
    return None if step is None else folder / str(step) / item


def _search(folder: Path, items: tuple[str, ...]) -> tuple[int | None, dict[int, str]]:
    """Returns the newest step whose items are whole, and what is wrong with those after it."""
    damage = {}
    for step in reversed(steps(folder)):
        found = find_damage(folder / str(step), items)
        if not found:
            return step, damage
        damage[step] = found
    if damage:
        listed = "\n".join(f"  {step}: {found}" for step, found in damage.items())
        raise ValueError(
            f"no checkpoint in {folder} is whole:\n{listed}\nNothing was deleted. Bring one back "
            "from a backup, or remove that folder to begin anew from step 0."
        )
    return None, damage

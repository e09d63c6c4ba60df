"""Which checkpoints are whole: the hashes of their files, taken when they were saved, say it.

Orbax and tensorstore read most flipped bytes as other numbers, without a word.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cxr_jax.io.atomic import atomic_write

HASHES = "sha256.json"
ITEMS = ("state", "encoder", "data", "config")  # subfolders of a checkpoint


def write_hashes(folder: Path) -> None:
    """Hashes every file in the items (subfolders) of a checkpoint, and sees them onto the disk.

    `folder`/sha256.json maps each path to its size and SHA-256. Call it when all else is written
    and before the checkpoint gets its name, so that none is without.
    """
    found = {path: [size, digest] for path, size, digest in _hash_all(folder, folder, sync=True)}
    with atomic_write(folder / HASHES) as temporary, temporary.open("w") as file:
        json.dump(found, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def find_damage(folder: Path, items: tuple[str, ...]) -> str:
    """What is wrong with these items of a checkpoint, in words; "" if nothing is.

    A checkpoint of before hashes were kept passes if all items are there.
    """
    for item in items:
        if not (folder / item).is_dir() or not any((folder / item).iterdir()):
            return f"{item} is missing or empty"
    if not (folder / HASHES).exists():
        return ""
    try:
        known = json.loads((folder / HASHES).read_text())
        known = {path: tuple(mark) for path, mark in known.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        return f"{HASHES} is not readable"
    expected = {path: mark for path, mark in known.items() if path.partition("/")[0] in items}
    if not expected:
        return f"{HASHES} names no file of it"
    try:
        for item in items:
            for path, size, digest in _hash_all(folder / item, folder):
                if path in expected and expected.pop(path) != (size, digest):
                    return f"{path} is not as it was saved"
    except OSError as error:
        return f"it cannot be read: {error}"
    return f"{min(expected)} is missing" if expected else ""


def _hash_all(under: Path, root: Path, sync: bool = False) -> Iterator[tuple[str, int, str]]:
    for path in sorted(under.rglob("*")):
        if not path.is_file() or path.parent == root:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
        yield path.relative_to(root).as_posix(), path.stat().st_size, digest


def set_damaged_aside(folder: Path) -> None:
    """Moves damaged checkpoints out of `folder`, down to the newest whole one, and says so.

    They go to a folder beside it, damaged_checkpoints. For one process, before a manager looks.

    Raises:
      ValueError: all are damaged; nothing is moved then.
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
    """The item in the newest checkpoint where it is as it was saved; None without any checkpoint.

    Says which ones are passed over.

    Raises:
      ValueError: all are damaged.
    """
    step, damage = _search(folder, (item,))
    for damaged, found in damage.items():
        print(f"WARNING: {folder / str(damaged)} is damaged ({found}): step {step} is used.")
    return None if step is None else folder / str(step) / item


def _search(folder: Path, items: tuple[str, ...]) -> tuple[int | None, dict[int, str]]:
    """The newest step whose items are whole, and what is wrong with those after it."""
    damage = {}
    steps = (int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal())
    for step in sorted(steps, reverse=True):
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

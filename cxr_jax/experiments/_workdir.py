"""A run's folder: its lock, and its saved config, which decides whether a second start resumes."""

import fcntl
import json
from pathlib import Path
from typing import Any

import ml_collections

from cxr_jax.config import with_new_names
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.io.json import read_json


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as it reads back from config.json (tuples become lists)."""
    return json.loads(config.to_json())


# Fields that a resumed run may change: no saved state depends on them.
_MAY_CHANGE = ("skip_nonfinite",)
_locks = {}  # open files hold their lock until they are released or the process ends


def open_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder and config.json, or checks that the config there is this one.

    The folder is then locked until this process ends or releases it. Raises ValueError, with the
    fields, for a folder of another config, BlockingIOError where another process is running in it,
    and NotADirectoryError for a file.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"--workdir={workdir} is a file; name a folder")
    workdir.mkdir(parents=True, exist_ok=True)
    _lock(workdir)
    path = workdir / "config.json"
    if not path.exists():
        _write(path, as_json(config))
        return
    try:
        saved = with_new_names(read_json(path))
    except ValueError as error:
        raise ValueError(f"{error}; choose another --workdir") from error
    given = as_json(config)
    allowed = {name: given[name] for name in _MAY_CHANGE if name in given}
    differing = list(_differences(saved | allowed, given))
    if differing:
        listed = "\n".join(f"  config.{line}" for line in differing)
        raise ValueError(
            f"{workdir} belongs to a run with another config:\n{listed}\n"
            "Give the same config to resume it, or another --workdir for a new run."
        )
    changed = [f"config.{line}" for line in _differences(saved, saved | allowed)]
    if changed:
        print("\n".join(changed))
        _write(path, saved | allowed)


def _write(path: Path, config: dict[str, Any]) -> None:
    atomic_write_text(path, json.dumps(config, indent=2) + "\n")


def release(workdir: Path) -> None:
    """Releases a folder before the process ends: a process may hold few open files."""
    file = _locks.pop(workdir.resolve(), None)
    if file is not None:
        file.close()


def _lock(workdir: Path) -> None:
    if workdir.resolve() in _locks:
        return
    file = (workdir / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(
            f"another process is running in {workdir}; wait for it, or choose another --workdir"
        ) from error
    _locks[workdir.resolve()] = file


def _differences(saved: Any, given: Any, prefix: str = ""):
    for name in sorted(saved.keys() | given.keys()):
        old, new = saved.get(name, "(absent)"), given.get(name, "(absent)")
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new and not (name in ("name", "dataset") and _same_dataset(old, new)):
            yield f"{prefix}{name}: saved {old!r}, given {new!r}"


def _same_dataset(saved: Any, given: Any) -> bool:
    """Takes "pool" for "pool/256", which may be the only one; fingerprints check the images."""
    if not (isinstance(saved, str) and isinstance(given, str)):
        return False
    return given.startswith(f"{saved}/") or saved.startswith(f"{given}/")

"""A run's folder: its lock, its saved config, which decides whether a second start resumes, and
provenance.json: the images, code and machine that made its results.

    config  as in config.json
    starts  one entry per start: time, seed, code (version, commit, changed: the checkout has edits
            that are not committed, sources: a hash of all our modules), packages, machine, dataset
            (split -> fingerprint), encoders (spec -> fingerprint of the weights), texts (the same
            for text encoders). A resumed run reads no weights and keeps their fingerprints.

A start like the last one is not written again. No host or user is named.
"""

import datetime
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from cxr_jax.config import with_added
from cxr_jax.data import seen_images
from cxr_jax.data.source import Source
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.io.json import read_json
from cxr_jax.stats.clusters import cluster_index
from cxr_jax.training import distributed
from cxr_jax.weights.encoder import Encoder

PROVENANCE = "provenance.json"
_ROOT = Path(__file__).parents[2]
# Fields that a resumed run may change: no saved state depends on them. A benchmark may move, with
# its cache; its grid may grow and shrink: each of its cells has a config of its own.
_GRID = ("encoders", "reference", "datasets", "protocols", "fractions", "seeds")
_MAY_CHANGE = ("skip_nonfinite", "keep_checkpoints", "loggers", "feature_cache", *_GRID)
_locks = {}  # open files hold their lock until they are released or the process ends


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as it reads back from config.json (tuples become lists)."""
    return json.loads(config.to_json())


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
    saved, allowed = check_config(workdir, config)
    for name, old, new in changes(saved, allowed):
        print(f"config.{name}: saved {old!r}, given {new!r}")
    path = workdir / "config.json"
    if allowed != saved or not path.exists():
        atomic_write_text(path, json.dumps(allowed, indent=2) + "\n")


def check_config(
    workdir: Path, config: ml_collections.ConfigDict
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the saved config (without one, this one), and the same with what may change in it.

    The workdir is only read. Raises ValueError, with the fields, if it belongs to another config.
    """
    path, given = workdir / "config.json", as_json(config)
    try:
        saved = with_added(read_json(path)) if path.exists() else given
    except ValueError as error:
        raise ValueError(f"{error}; choose another --workdir") from error
    kinds = [held.get("experiment") for held in (saved, given)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{workdir} is the workdir of a {kinds[0]} run, and this is a {kinds[1]} run: give it "
            "another --workdir"
        )
    allowed = _with_allowed(saved, given)
    differing = [
        f"  config.{name}: saved {old!r}, given {new!r}"
        for name, old, new in changes(_spelt_out(allowed), _spelt_out(given))
        if not (name.endswith(("name", "dataset")) and _same_dataset(old, new))
    ]
    if differing:
        advice = "Give the same config to resume it, or another --workdir for a new run."
        if saved.get("num_train_steps") != given.get("num_train_steps"):
            # Its learning rate has come to its end.
            advice += f"\nTo train a finished one further: --config.init={workdir} in a new run."
        raise ValueError(
            f"{workdir} belongs to a run with another config:\n"
            + "\n".join(differing)
            + "\n"
            + advice
        )
    return saved, allowed


def _spelt_out(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config with what an optimizer does that lacks a field of today's recipes."""
    if "optimizer" not in config:
        return config
    lacking = {"clip_by": "parameter", "momentum": 0.9}
    return config | {"optimizer": lacking | config["optimizer"]}


def _with_allowed(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the saved config with what may change as it is given, that of its transfer too."""
    found = saved | {name: given[name] for name in _MAY_CHANGE if name in given}
    if "transfer" in saved and "transfer" in given:
        found["transfer"] = _with_allowed(saved["transfer"], given["transfer"])
    return found


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


def _same_dataset(saved: Any, given: Any) -> bool:
    """Takes "pool" for "pool/256", which may be the only one; fingerprints check the images."""
    if not (isinstance(saved, str) and isinstance(given, str)):
        return False
    return given.startswith(f"{saved}/") or saved.startswith(f"{given}/")


def write_provenance(
    workdir: Path,
    config: ml_collections.ConfigDict,
    dataset: Mapping[str, str],
    encoders: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Adds this start to the workdir's provenance.json; says so where it differs from the last."""
    path = workdir / PROVENANCE
    starts = read_provenance(workdir)["starts"] if path.is_file() else []
    seed = config.seeds if "seeds" in config else config.seed
    start = {
        "seed": list(seed) if isinstance(seed, tuple) else seed,
        **_surroundings(),
        "dataset": dict(dataset),
        "encoders": dict(encoders or {}),
        "texts": dict(texts or {}),
    }
    if starts:
        for name in ("encoders", "texts"):
            start[name] = start[name] or starts[-1].get(name, {})
        differing = differences(starts[-1], start)
        if not differing:
            return
        listed = "\n".join(f"  {line}" for line in differing)
        print(f"{workdir} was begun under other conditions. What changed since:\n{listed}")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    held = {"config": as_json(config), "starts": [*starts, {"time": now, **start}]}
    atomic_write_text(path, json.dumps(held, indent=2) + "\n")


def read_provenance(workdir: Path) -> dict[str, Any]:
    """Reads what `write_provenance` wrote.

    Raises FileNotFoundError where it is missing (old results) and ValueError where it is damaged.
    """
    path = workdir / PROVENANCE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the dataset and the code that made these results are not known"
        )
    try:
        held = read_json(path)
        read = {"config": held["config"], "starts": list(held["starts"])}
        for start in read["starts"]:
            if not isinstance(start, dict) or not isinstance(start.get("dataset"), dict):
                raise ValueError("a start lacks its dataset")
        return read
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; move it away to go on without it") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the fields in which two starts differ; the time does not count.

    >>> differences({"packages": {"jax": 1}, "seed": 0}, {"packages": {"jax": 2}, "seed": 0})
    ['packages.jax: was 1, now 2']
    """
    found = changes(before, now)
    return [f"{name}: was {old}, now {new}" for name, old, new in found if name != "time"]


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the fields, dotted, in which two nested tables differ, with both values."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, "(absent)"), now.get(name, "(absent)")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changes(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new


def fingerprint_images(
    source: Source,
    rows: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    patients: tuple[str, ...] = (),
    marked: bytes = b"",
) -> str:
    """Returns 16 hex digits, equal for equal images in equal order with equal targets and patients.

    No id goes into it, but it knows which images share a patient. Images are told apart by their
    hashes and the bytes that all take together. `rows` are those of the source that take part (all
    by default); targets and patients are of these rows, and `marked` is the hash of masks or boxes
    that a protocol reads. Raises as seen_images.list_images.
    """
    images = seen_images.list_images(source)
    rows = np.arange(len(source)) if rows is None else rows
    info = json.loads((source.folder / "dataset_info.json").read_text())
    digest = hashlib.sha256(json.dumps([info["version"], info["splits"]]).encode())
    digest.update(images.phash[rows].tobytes())
    people = np.array(patients or images.patient[rows], str)
    digest.update(cluster_index(people, len(rows))[0].tobytes())
    if targets is not None:
        digest.update(targets.tobytes())
    digest.update(marked)
    return digest.hexdigest()[:16]


def fingerprint_weights(encoder: Encoder, beside: Sequence[np.ndarray] = ()) -> str:
    """Returns 16 hex digits of an encoder's architecture and parameters.

    `beside`: what else is read of it, such as its text tower (Protocol.reads, Text.reads).
    """
    return fingerprint_arrays([encoder.variables, *beside], repr(encoder.reads))


def fingerprint_arrays(tree: Any, said: str = "") -> str:
    """Returns 16 hex digits of the arrays in a tree and of the text `said`."""
    return hash_arrays(tree, said).hexdigest()[:16]


def hash_arrays(tree: Any, said: str) -> Any:
    """Returns the SHA-256, to be updated, of the text `said` and of the arrays in a tree."""
    digest = hashlib.sha256(said.encode())
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest


@functools.cache  # what was imported is what runs
def _surroundings() -> dict[str, Any]:
    packages = distributed.versions()
    sources = packages.pop("code")
    device, facts = jax.devices()[0], Path("/proc/cpuinfo")
    # The CPU's name, on which the last bits of sums depend.
    processor = facts.exists() and re.search("model name\\s*: (.*)", facts.read_text())
    return {
        "code": {"version": importlib.metadata.version("cxr_jax"), **_commit(), "sources": sources},
        "packages": packages,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor[1] if processor else platform.processor(),
            "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            "processes": distributed.count(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        },
    }


def _commit() -> dict[str, Any]:
    """Returns the commit of the checkout; nothing for an installed package or without Git."""
    if not (_ROOT / ".git").exists():
        return {}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"commit": git("rev-parse", "HEAD"), "changed": changed}
    except (OSError, subprocess.CalledProcessError):
        return {}

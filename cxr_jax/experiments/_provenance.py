"""provenance.json: what a workdir's results were made of, by which code, on which machine.

    config  as in config.json
    starts  one entry a start: time, seed, code (version, commit, changed: whether the checkout
            holds changes that are not committed, sources: a hash of all of our modules), packages,
            machine, dataset (split -> mark), encoders (spec -> hash of the weights), texts (the
            same of text encoders). A run that goes on reads no weights and keeps these marks.

A start that is like the last one is not written again. No host or user is named.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from cxr_jax.data import exposure, seen_images
from cxr_jax.data.source import Source
from cxr_jax.experiments._workdir import as_json
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.io.json import read_json
from cxr_jax.stats.bootstrap import cluster_index
from cxr_jax.training import distributed
from cxr_jax.weights.encoder import Encoder

FILE = "provenance.json"
_ROOT = Path(__file__).parents[2]


def write(
    workdir: Path,
    config: ml_collections.ConfigDict,
    dataset: Mapping[str, str | None],
    encoders: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Adds this start to the workdir's provenance.json; says so where it differs from the last."""
    path = workdir / FILE
    starts = read(workdir)["starts"] if path.is_file() else []
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


def read(workdir: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
      FileNotFoundError: it is not there: the results are older than it.
      ValueError: it is damaged.
    """
    path = workdir / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: which dataset and which code made these results is not known"
        )
    try:
        held = read_json(path)
        read = {"config": held["config"], "starts": list(held["starts"])}
        for start in read["starts"]:
            if not isinstance(start, dict) or not isinstance(start.get("dataset"), dict):
                raise ValueError("a start is no account of one")
        return read
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; move it away to go on without it") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields, but for the time, in which two starts differ: "packages.jax: was 1, now 2"."""
    lines = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new and name != "time":
            lines.append(f"{prefix}{name}: was {old}, now {new}")
    return lines


def fingerprint_images(
    source: Source,
    rows: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    patients: tuple[str, ...] = (),
) -> str | None:
    """16 hex digits, equal for equal images in equal order with equal targets and patients.

    No id goes into it, but which images are of one patient does. Images are told apart by their
    hashes and the bytes that all take together. None for a dataset without a ledger.

    Args:
      rows: those of the source that take part; all by default. The others are of these rows.
    """
    if not (source.folder / seen_images.FILE).is_file():
        return None
    images = exposure.of_source(source)
    rows = np.arange(len(source)) if rows is None else rows
    info = json.loads((source.folder / "dataset_info.json").read_text())
    digest = hashlib.sha256(json.dumps([info["version"], info["splits"]]).encode())
    digest.update(images.phash[rows].tobytes())
    digest.update(
        cluster_index(np.array(patients or images.patient[rows], str), len(rows))[0].tobytes()
    )
    if targets is not None:
        digest.update(targets.tobytes())
    return digest.hexdigest()[:16]


def fingerprint_weights(encoder: Encoder) -> str:
    """16 hex digits of an encoder's architecture and parameters."""
    return fingerprint_arrays(encoder.variables, repr((encoder.model, encoder.image_size)))


def fingerprint_arrays(tree: Any, said: str = "") -> str:
    """16 hex digits of the arrays in a tree, and of what is said of them."""
    digest = hashlib.sha256(said.encode())
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


@functools.cache  # what was imported is what runs
def _surroundings() -> dict[str, Any]:
    packages = distributed.versions()
    sources = packages.pop("code")
    device = jax.devices()[0]
    return {
        "code": {
            "version": importlib.metadata.version("cxr_jax"),
            **_commit(),
            "sources": sources,
        },
        "packages": packages,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            "processes": distributed.count(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        },
    }


def _commit() -> dict[str, Any]:
    """Of the checkout that this code runs from; nothing where it was installed or Git is not."""
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


def _processor() -> str:
    """Its name, on which the last bits of a CPU's sums depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")

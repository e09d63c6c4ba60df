"""provenance.json: the images, code and machine that made a workdir's results.

    config  as in config.json
    starts  one entry per start: time, seed, code (version, commit, changed: the checkout has edits
            that are not committed, sources: a hash of all our modules), packages, machine, dataset
            (split -> fingerprint), encoders (spec -> fingerprint of the weights), texts (the same
            for text encoders). A resumed run reads no weights and keeps their fingerprints.

A start like the last one is not written again. No host or user is named.
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

from cxr_jax.data import seen_images
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
    """Reads what `write` wrote.

    Raises FileNotFoundError where it is missing (old results) and ValueError where it is damaged.
    """
    path = workdir / FILE
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


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns the fields in which two starts differ; the time does not count.

    >>> differences({"packages": {"jax": 1}, "seed": 0}, {"packages": {"jax": 2}, "seed": 0})
    ['packages.jax: was 1, now 2']
    """
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
    """Returns 16 hex digits, equal for equal images in equal order with equal targets and patients.

    No id goes into it, but it knows which images share a patient. Images are told apart by their
    hashes and the bytes that all take together. `rows` are those of the source that take part (all
    by default); targets and patients are of these rows. None for an old dataset without
    seen_images.parquet.
    """
    if not seen_images.find(source.folder):
        return None
    images = seen_images.list_images(source)
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
    """Returns 16 hex digits of an encoder's architecture and parameters."""
    return fingerprint_arrays(encoder.variables, repr((encoder.model, encoder.image_size)))


def fingerprint_arrays(tree: Any, said: str = "") -> str:
    """Returns 16 hex digits of the arrays in a tree and of the text `said`."""
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


def _processor() -> str:
    """Returns the CPU's name, on which the last bits of sums depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")

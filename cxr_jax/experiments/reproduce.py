"""Runs a workdir's config again and compares: python run.py --reproduce=WORKDIR.

It compares metrics.jsonl line by line, every parameter of the last checkpoint, and each score,
metric and comparison of transfers. The findings are printed and kept in the new workdir's
reproduction.json.
"""

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_jax import weights
from cxr_jax.experiments import _provenance
from cxr_jax.objectives import convirt
from cxr_jax.training import checkpoint
from cxr_jax.weights.importers import _bert

FILE = "reproduction.json"
_COMPARED = ("metrics.jsonl", "metrics.json", "comparisons.json", "predictions.parquet")


class Finding(NamedTuple):
    """One file and how it differs: "" where it is the same bit for bit."""

    name: str
    difference: str


def check(config: ml_collections.ConfigDict, old: Path) -> None:
    """Checks that a run of `config`, which is `old`'s, can come out the same.

    Raises FileNotFoundError where it is not known what `old` was made of, and ValueError where it
    has not finished or its dataset or an encoder is no longer what it was.
    """
    if not _finished(config, old):
        raise ValueError(f"{old} has not finished: there is no end to compare with; resume it")
    last = _check_dataset(config, old)
    for spec, fingerprint in last["encoders"].items():
        if spec != "random" and _provenance.fingerprint_weights(weights.load(spec)) != fingerprint:
            raise ValueError(f"the encoder {spec} has other weights than when {old} was made")
    for path, fingerprint in last.get("texts", {}).items():
        text = _bert.load_text(path, convirt.text_encoder(config))
        if _provenance.fingerprint_arrays(text) != fingerprint:
            raise ValueError(f"the text encoder {path} has other weights than when {old} was made")
    if config.experiment == "pretrain" and config.transfer.dataset:
        _check_dataset(config.transfer, old / "transfer")


def _check_dataset(config, old: Path) -> dict[str, Any]:
    """Checks that the dataset is that of `old`'s last start, and returns that start."""
    last = _provenance.read(old)["starts"][-1]
    experiment = importlib.import_module(f"cxr_jax.experiments.{config.experiment}")
    now = experiment.fingerprints(config)
    if not last["dataset"] or None in last["dataset"].values():
        raise ValueError(
            f"{old / _provenance.FILE} has no fingerprint of its dataset, so that it cannot be "
            "compared with that of now. Old datasets lack seen_images.parquet: build the dataset "
            "again (--overwrite) and run anew"
        )
    if last["dataset"] != now:
        lines = _provenance.differences(last["dataset"], now)
        raise ValueError(
            f"the dataset is not the one that {old} was made of:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nRestore that dataset, or name the folder that has it: --config.data.dir"
        )
    return last


def report(config: ml_collections.ConfigDict, old: Path, new: Path) -> bool:
    """Compares, prints and keeps the findings; returns whether all is equal bit for bit."""
    findings = [
        found for folder in _folders(config, old) for found in _compare(old / folder, new / folder)
    ]
    before, now = (_provenance.read(folder)["starts"] for folder in (old, new))
    conditions = _provenance.differences(before[-1], now[-1])
    differing = [found for found in findings if found.difference]
    if not differing:
        lines = [f"{old}: reproduced bit for bit ({len(findings)} results compared)."]
    else:
        lines = [f"{old}: NOT reproduced; {len(differing)} of {len(findings)} results differ:"]
        lines += [f"  {found.name}: {found.difference}" for found in differing]
    if any("image_id" in found.difference for found in differing):
        lines.append(
            "Images have other ids: the data folder's .salt has changed. Copy that file from the "
            "old data folder to get the same ids."
        )
    if conditions:
        lines += ["What differs in code, packages or machine:", *(f"  {one}" for one in conditions)]
    elif differing:
        lines.append("Code, packages and machine are the same; on GPUs see docs/determinism.md.")
    if len(before) > 1:
        lines.append(f"{old} was resumed under other conditions; compared with the last ones.")
    print("\n" + "\n".join(lines))
    held = {"of": str(old), "equal": not differing, "results": dict(findings)}
    (new / FILE).write_text(json.dumps(held | {"conditions": conditions}, indent=2) + "\n")
    return not differing


def _finished(config, folder: Path) -> bool:
    if config.experiment == "pretrain" and _last_step(folder) != config.num_train_steps:
        return False
    last = {"pretrain": "metrics.jsonl", "transfer": "report.md", "benchmark": "report.html"}
    if not (folder / last[config.experiment]).is_file():
        return False
    inner = config.experiment == "pretrain" and config.transfer.dataset
    return not inner or (folder / "transfer" / "report.md").is_file()


def _folders(config, old: Path) -> Iterator[str]:
    """Yields the folders of a workdir that hold results of the run itself, relative to it."""
    if config.experiment == "benchmark":
        yield from sorted(
            path.parent.relative_to(old).as_posix()
            for path in old.glob("cells/**/predictions.parquet")
        )
        return
    yield ""
    transfer = ""
    if config.experiment == "pretrain":
        if not config.transfer.dataset:
            return
        transfer = "transfer/"
        yield transfer
    for path in sorted((old / transfer).glob("baselines/*/predictions.parquet")):
        yield path.parent.relative_to(old).as_posix()


def _compare(old: Path, new: Path) -> Iterator[Finding]:
    for path in [old / name for name in _COMPARED] + sorted(old.glob("training/*.jsonl")):
        if path.is_file():
            other = new / path.relative_to(old)
            yield Finding(str(path), _difference(path, other) if other.is_file() else "missing now")
    if (old / checkpoint.FOLDER).is_dir():
        yield Finding(str(old / checkpoint.FOLDER), _parameters(old, new))


def _difference(old: Path, new: Path) -> str:
    if old.read_bytes() == new.read_bytes():
        return ""
    if old.suffix == ".parquet":
        tables = pq.read_table(old), pq.read_table(new)
        return "" if tables[0].equals(tables[1]) else _largest(*map(_columns, tables))
    if old.suffix == ".jsonl":
        read = [[json.loads(line) for line in path.read_text().splitlines()] for path in (old, new)]
    else:
        read = [json.loads(path.read_text()) for path in (old, new)]
    return _largest(*(dict(_leaves(one)) for one in read))


def _columns(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table[name].to_numpy() for name in table.column_names}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yields every number and word of a JSON value with the path to it."""
    if isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, np.asarray(np.nan if value is None else value)


def _largest(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> str:
    """Returns the largest difference of numbers, and what else differs; "" for nothing."""
    odd = sorted(old.keys() ^ new.keys())
    if odd:
        return f"{len(odd)} values are in one of the two only, the first {odd[0]}"
    worst, where, others = 0.0, "", []
    for name in old:
        a, b = np.asarray(old[name]), np.asarray(new[name])
        if a.shape == b.shape and a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
            if np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f"):
                continue
            apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
            largest = np.inf if np.isnan(apart).any() else float(apart.max(initial=0.0))
            if largest >= worst:
                worst, where = largest, name
        elif a.shape != b.shape or (a != b).any():
            others.append(name)
    parts = [f"largest difference {worst:.3g} ({where})"] if where else []
    parts += [f"other words in {', '.join(others[:3])}"] if others else []
    return "; ".join(parts)


def _parameters(old: Path, new: Path) -> str:
    steps = _last_step(old), _last_step(new)
    if steps[0] != steps[1]:
        return f"the last is of step {steps[0]}, now of {steps[1]}"
    return _largest(*(_state(folder, step) for folder, step in zip((old, new), steps)))


def _state(workdir: Path, step: int | None) -> dict[str, np.ndarray]:
    """Reads every array of the checkpoint of that step, by the path to it."""
    item = (workdir / checkpoint.FOLDER / str(step) / "state").resolve()
    with ocp.PyTreeCheckpointer() as checkpointer:
        saved = checkpointer.metadata(item).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        state = checkpointer.restore(item, restore_args=as_numpy)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _last_step(workdir: Path) -> int | None:
    folder = workdir / checkpoint.FOLDER
    return max((int(one.name) for one in folder.glob("*") if one.name.isdecimal()), default=None)

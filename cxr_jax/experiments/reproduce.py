"""Runs a workdir's config again and compares: python run.py --reproduce=WORKDIR.

It compares metrics.jsonl line by line, every parameter of the last checkpoint, and each score,
metric and comparison of transfers. The findings are printed and kept in the new workdir's
reproduction.json.
"""

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import pyarrow.parquet as pq

from cxr_jax import weights
from cxr_jax.experiments import _transfer_inputs, _workdir
from cxr_jax.objectives import _image_text
from cxr_jax.training import checkpoint
from cxr_jax.weights.importers import _text

FILE = "reproduction.json"
_COMPARED = ("metrics.jsonl", "metrics.json", "comparisons.json", "predictions.parquet")


def check(config: ml_collections.ConfigDict, old: Path) -> None:
    """Checks that a run of `config`, which is `old`'s, can come out the same.

    Raises FileNotFoundError where it is not known what `old` was made of, and ValueError where it
    has not finished or its dataset or an encoder is no longer what it was.
    """
    if not _finished(config, old):
        raise ValueError(f"{old} has not finished: there is no end to compare with; resume it")
    last = _check_dataset(config, old)
    transfers = config.experiment == "transfer"
    beside = _transfer_inputs.protocol(config).reads if transfers else lambda encoder: ()
    for spec, fingerprint in last["encoders"].items():
        if spec == "random":
            continue
        encoder = weights.load(spec)
        if _workdir.fingerprint_weights(encoder, beside(encoder)) != fingerprint:
            raise ValueError(
                f"the encoder {spec} has other weights than when {old} was made, or this version "
                "reads it otherwise: put those of then back, or repeat it by the older version"
            )
    for path, fingerprint in last.get("texts", {}).items():
        text = _text.load_text(path, _image_text.text_encoder(config))
        if _workdir.fingerprint_arrays(text) != fingerprint:
            raise ValueError(f"the text encoder {path} has other weights than when {old} was made")
    if config.experiment == "pretrain" and config.transfer.dataset:
        _check_dataset(config.transfer, old / "transfer")


def _check_dataset(config, old: Path) -> dict[str, Any]:
    """Checks that the dataset is that of `old`'s last start, and returns that start."""
    last = _workdir.read_provenance(old)["starts"][-1]
    experiment = importlib.import_module(f"cxr_jax.experiments.{config.experiment}")
    now = experiment.fingerprints(config)
    before = last["dataset"]
    if len(before) == len(now) == 1:  # a pool of folds, which was called "test" before 2026-11-30
        before = dict(zip(now, before.values(), strict=True))
    if before != now:
        lines = _workdir.differences(before, now)
        raise ValueError(
            f"the dataset is not the one that {old} was made of:\n"
            + "\n".join(f"  {line}" for line in lines)
            + "\nRestore that dataset, or name the folder that has it: --config.data.dir"
        )
    return last


def report(config: ml_collections.ConfigDict, old: Path, new: Path) -> bool:
    """Compares, prints and keeps the findings; returns whether all is equal bit for bit."""
    # File -> how it differs, "" where it is the same bit for bit.
    findings = dict(
        found for folder in _folders(config, old) for found in _compare(folder, old, new)
    )
    before, now = (_workdir.read_provenance(folder)["starts"] for folder in (old, new))
    conditions = _workdir.differences(before[-1], now[-1])
    differing = {name: difference for name, difference in findings.items() if difference}
    if not differing:
        lines = [f"{old}: reproduced bit for bit ({len(findings)} results compared)."]
    else:
        lines = [f"{old}: NOT reproduced; {len(differing)} of {len(findings)} results differ:"]
        lines += [f"  {name}: {difference}" for name, difference in differing.items()]
    if any("image_id" in difference for difference in differing.values()):
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
    held = {"of": str(old), "equal": not differing, "results": findings}
    (new / FILE).write_text(json.dumps(held | {"conditions": conditions}, indent=2) + "\n")
    return not differing


def _finished(config, folder: Path) -> bool:
    ends = {"pretrain": "metrics.jsonl", "transfer": "report.md", "benchmark": "report.html"}
    last = [folder / ends[config.experiment]]
    if config.experiment == "pretrain":
        if checkpoint.steps(folder / checkpoint.FOLDER)[-1:] != [config.num_train_steps]:
            return False
        last += [folder / "transfer" / "report.md"] if config.transfer.dataset else []
    return all(path.is_file() for path in last)


def _folders(config, old: Path) -> list[Path]:
    """Returns the folders of a workdir that hold results of the run itself."""
    if config.experiment == "benchmark":
        return sorted(path.parent for path in old.glob("cells/**/predictions.parquet"))
    folders = [old]
    if config.experiment == "pretrain" and config.transfer.dataset:
        folders.append(old / "transfer")
    kinds = "baselines/*", "pretrainings/*", "baselines/*/pretrainings/*"
    paths = sorted(
        path for kind in kinds for path in folders[-1].glob(f"{kind}/predictions.parquet")
    )
    return [*folders, *(path.parent for path in paths)]


def _compare(folder: Path, old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Yields each file with results in a folder of the run `old`, and how it differs from `new`'s.

    "" is no difference.
    """
    other = new / folder.relative_to(old)
    for path in [folder / name for name in _COMPARED] + sorted(folder.glob("training/*.jsonl")):
        if path.is_file():
            now = other / path.relative_to(folder)
            yield str(path), _difference(path, now) if now.is_file() else "missing now"
    saved = folder / checkpoint.FOLDER
    if saved.is_dir():
        both = saved, other / checkpoint.FOLDER
        last, now = (max(checkpoint.steps(one), default=None) for one in both)
        if last == now:
            yield str(saved), _largest(*(_state(one / str(last)) for one in both))
        else:
            yield str(saved), f"the last is of step {last}, now of {now}"


def _difference(old: Path, new: Path) -> str:
    if old.read_bytes() == new.read_bytes():
        return ""
    if old.suffix == ".parquet":
        tables = pq.read_table(old), pq.read_table(new)
        if tables[0].equals(tables[1]):
            return ""
        return _largest(*({n: one[n].to_numpy() for n in one.column_names} for one in tables))
    texts = [path.read_text() for path in (old, new)]
    if old.suffix == ".jsonl":
        texts = [f"[{','.join(text.splitlines())}]" for text in texts]
    return _largest(*(dict(_leaves(json.loads(text))) for text in texts))


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


def _state(saved: Path) -> dict[str, np.ndarray]:
    """Reads every array of a checkpoint, by the path to it."""
    state = checkpoint.read_item(saved / "state")
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}

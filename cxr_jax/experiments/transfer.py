"""Transfer: frozen encoders, one labelled dataset, a linear probe each, and what the data can tell.

The encoder's results stand in the workdir (predictions.parquet, metrics.json), each baseline's in
baselines/<n>-<name>/, the comparison in comparisons.json and report.md.
"""

import hashlib
import importlib.metadata
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from cxr_jax import weights
from cxr_jax.data import exposure, fractions, tasks
from cxr_jax.data.exposure import Exposure
from cxr_jax.data.labelled import LabelledSplit, load_split
from cxr_jax.evaluate.linear import linear_probe
from cxr_jax.evaluate.metrics import compare, metric_rows
from cxr_jax.evaluate.predictions import Predictions, read_parquet, write_parquet
from cxr_jax.experiments.features import extract
from cxr_jax.experiments.workdir import open_workdir
from cxr_jax.fields import check_positive
from cxr_jax.report import page, tables
from cxr_jax.weights.encoder import Encoder, random_encoder
from cxr_jax.writer import Writer

_VERSIONS_OF = ("cxr_jax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Splits(NamedTuple):
    train: LabelledSplit
    validation: LabelledSplit
    test: LabelledSplit


class Probe(NamedTuple):
    """One encoder's result. facts: how it came about, for the report."""

    name: str
    predictions: Predictions
    rows: list[dict]
    facts: dict


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Scores config.encoder and config.baselines on config.dataset and writes the report."""
    _check_fields(config)
    encoders = load_encoders(config)
    splits = load_splits(config)
    open_workdir(workdir, config)
    print(
        f"Linear probe on {config.dataset}: {len(splits.train.rows):,} training, "
        f"{len(splits.validation.rows):,} validation and {len(splits.test.rows):,} test films; "
        f"labels: {', '.join(splits.test.label_names)}"
    )
    probes = []
    for index, encoder in enumerate(encoders):
        folder = workdir
        if index:
            plain = re.sub(r"[^A-Za-z0-9]+", "-", encoder.name)
            folder = workdir / "baselines" / f"{index}-{plain}"
        probes.append(_probe(config, encoder, splits, folder))
    comparisons = [
        compare(
            probes[0].predictions,
            other.predictions,
            (probes[0].name, other.name),
            config.num_resamples,
            config.seed,
        )
        for other in probes[1:]
    ]
    _write_json(workdir / "comparisons.json", comparisons)
    _log(workdir, probes)
    report(config, workdir, probes, comparisons, splits)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError or FileNotFoundError for what would fail apart from the encoder itself."""
    _check_fields(config)
    for spec in _baselines(config):
        if spec != "random":
            weights.load(spec)
    load_splits(config)


def _check_fields(config: ml_collections.ConfigDict) -> None:
    check_positive(config, ("batch_size", "image_size", "num_resamples"))
    if not config.dataset:
        raise ValueError(
            "config.dataset is empty; name a labelled dataset, for example --config.dataset=phantom"
        )
    if config.protocol != "linear":
        raise ValueError(f"config.protocol={config.protocol!r} is not known; there is: linear")
    if not config.encoder:
        raise ValueError("config.encoder is empty; name a workdir, a weights file, or random")


def _baselines(config: ml_collections.ConfigDict) -> list[str]:
    return [spec.strip() for spec in config.baselines.split(",") if spec.strip()]


def load_encoders(config: ml_collections.ConfigDict) -> list[Encoder]:
    """The encoder, then its baselines; "random" takes the shape of the encoder beside it."""
    specs = [config.encoder, *_baselines(config)]
    specs = list(dict.fromkeys(specs))  # random against random says nothing
    loaded = {spec: weights.load(spec) for spec in specs if spec != "random"}
    if loaded:
        first = next(iter(loaded.values()))
        shape, size = first.model, first.image_size
    else:
        shape, size = config.model.to_dict(), config.image_size
    loaded["random"] = random_encoder(shape, size, config.seed)
    count = Counter(loaded[spec].name for spec in specs)
    return [
        encoder._replace(name=f"{encoder.name} ({spec})") if count[encoder.name] > 1 else encoder
        for spec, encoder in ((spec, loaded[spec]) for spec in specs)
    ]


def load_splits(config: ml_collections.ConfigDict) -> Splits:
    """Train (cut to the label fraction), validation and test."""
    train, validation, test = (
        load_split(config.dataset, config.data.dir, split, config.task, tasks.changes_of(config))
        for split in ("train", "validation", "test")
    )
    rows = fractions.patient_subset(train.patient_ids, config.label_fraction, config.seed)
    return Splits(train.take(rows), validation, test)


def _probe(config, encoder: Encoder, splits: Splits, folder: Path) -> Probe:
    """One encoder's result, read back if an earlier start of this run finished it."""
    finished = folder / "probe.json"
    fingerprint = _fingerprint(encoder, splits)
    if finished.exists():
        facts = json.loads(finished.read_text())
        if facts["fingerprint"] == fingerprint:
            print(f"{encoder.name}: finished before")
            rows = json.loads((folder / "metrics.json").read_text())
            return Probe(encoder.name, read_parquet(folder / "predictions.parquet"), rows, facts)
    folder.mkdir(parents=True, exist_ok=True)
    names = splits.test.label_names
    print(f"{encoder.name}: features", flush=True)
    train, validation, test = (
        extract(encoder, split, config.batch_size, name) for name, split in splits._asdict().items()
    )
    result = linear_probe(
        (train, splits.train.targets),
        (validation, splits.validation.targets),
        test,
        tuple(config.strengths),
        names,
    )
    scored = [k for k in range(len(names)) if result.scored[k]]
    not_scored = {names[k]: reason for k, reason in result.not_scored.items()}
    predictions = Predictions(
        splits.test.image_ids,
        splits.test.patient_ids,
        tuple(names[k] for k in scored),
        splits.test.targets[:, scored],
        result.scores[:, scored],
    )
    rows = metric_rows(predictions, config.num_resamples, config.seed, not_scored)
    facts = {
        "fingerprint": fingerprint,
        "image_size": encoder.image_size,
        "features": train.shape[1],
        "strength": {names[k]: float(result.strength[k]) for k in scored},
        "notes": {names[k]: note for k, note in result.notes.items()},
        "not_scored": not_scored,
    }
    write_parquet(predictions, folder / "predictions.parquet")
    _write_json(folder / "metrics.json", rows)
    _write_json(finished, facts)  # last: its presence says that the others are whole
    print(f"{encoder.name}: macro AUROC {tables.with_interval(rows[-1])}")
    return Probe(encoder.name, predictions, rows, facts)


def _fingerprint(encoder: Encoder, splits: Splits) -> str:
    """Of weights, films and labels: a result is taken up again only if none of them changed."""
    digest = hashlib.sha256(repr((encoder.model, encoder.image_size)).encode())
    for leaf in jax.tree.leaves(encoder.variables):
        digest.update(np.asarray(leaf).tobytes())
    for split in splits:
        digest.update((split.source.folder / "dataset_info.json").read_bytes())
        digest.update("\n".join(split.image_ids).encode() + split.targets.tobytes())
    return digest.hexdigest()


def _write_json(path: Path, value) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def _log(workdir: Path, probes: list[Probe]) -> None:
    (workdir / "metrics.jsonl").unlink(missing_ok=True)
    writer = Writer(workdir)
    for probe in probes:
        macro = probe.rows[-1]["auroc"]
        if macro is not None:
            writer.scalars(0, {f"{probe.name}/macro_auroc": macro})
    writer.close()


def report(config, workdir: Path, probes: list[Probe], comparisons: list[dict], splits: Splits):
    """Writes report.md and prints its verdicts, its table and its path."""
    runs = [page.Run(probe.name, probe.predictions, probe.rows) for probe in probes]
    path = page.write_report(
        workdir,
        f"Linear probe on {config.dataset}",
        runs,
        comparisons,
        _protocol(config, probes, splits),
        _notes(probes),
        _provenance(config, splits),
    )
    print("\n" + tables.auroc_table([(run.name, run.rows) for run in runs]))
    for comparison in comparisons:
        print("\n" + page.verdict(comparison).replace("**", ""))
    print(f"\nRead the report: {path}")


def _protocol(config, probes: list[Probe], splits: Splits) -> list[str]:
    sizes = {
        name: f"{len(split.rows):,} films of {len(set(split.patient_ids)):,} patients"
        for name, split in splits._asdict().items()
    }
    strengths = ", ".join(f"{strength:g}" for strength in config.strengths)
    lines = [
        f"Labels used for training: {sizes['train']} ({_share(config)}). The strength was chosen "
        f"on the whole validation split, {sizes['validation']}: its labels come on top of that "
        f"budget. Tested on {sizes['test']}, scored once.",
        "Frozen features in evaluation mode, standardised on the training films; logistic "
        f"regression with an L2 penalty, its strength C chosen per label on validation among "
        f"{strengths}; the same for every encoder.",
        f"Intervals: {config.num_resamples:,} bootstrap resamples of patients; differences are "
        "paired on the same films.",
    ]
    lines += _policies(splits)
    for k, label in enumerate(splits.test.label_names):
        if splits.test.uncertain[:, k].any() or splits.train.uncertain[:, k].any():
            counts = [int(split.uncertain[:, k].sum()) for split in splits]
            lines.append(
                f"{label}: uncertain (−1) in {counts[0]} training, {counts[1]} validation and "
                f"{counts[2]} test films, counted as {splits.test.task.uncertain}."
            )
    lines += _exposure(config, splits)
    for probe in probes:
        chosen = ", ".join(f"{label} {c:g}" for label, c in probe.facts["strength"].items())
        lines.append(
            f"{probe.name}: {probe.facts['features']} features at {probe.facts['image_size']} px; "
            f"C chosen: {chosen}."
        )
    return lines


def _exposure(config, splits: Splits) -> list[str]:
    """What each encoder saw of the test films in its pretraining, where it kept a ledger."""
    lines = []
    for spec in dict.fromkeys([config.encoder, *_baselines(config)]):
        seen = exposure.of_encoder(spec, splits.test.source)
        if seen is not None:
            of_test = Exposure(*(column[splits.test.rows] for column in seen))
            lines.append(
                f"In its pretraining {spec} saw patients of {of_test.patient.sum():,} of the "
                f"{len(splits.test.rows):,} test films, and films that look the same for "
                f"{of_test.film.sum():,}."
            )
    return lines


def _policies(splits: Splits) -> list[str]:
    """What the task does beyond taking a label as it is."""
    task, lines = splits.test.task, []
    if task.views:
        left_out = sum(split.other_views for split in splits)
        lines.append(f"Views: {', '.join(task.views)}; {left_out:,} films of others left out.")
    if task.unmentioned != "ignore":
        lines.append(f"Findings that are not mentioned count as {task.unmentioned}.")
    if "readers" in splits.test.source.fields:
        lines.append(f"Of several readers, {task.readers} decides.")
    if splits.test.source.metadata.get("label_scale") == "certainty":
        lines.append(f"A finding counts as present from certainty {task.certainty:g} on.")
    return lines


def _share(config) -> str:
    if config.label_fraction == 1:
        return "all training patients"
    return (
        f"{100 * config.label_fraction:g} % of the training patients, drawn with seed {config.seed}"
    )


def _notes(probes: list[Probe]) -> list[str]:
    """What a reader must know of single labels, from the probes and the metric rows."""
    lines = []
    for probe in probes:
        for label, note in probe.facts["notes"].items():
            lines.append(f"{probe.name}, {label}: {note}.")
        for row in probe.rows:
            if row.get("note") and row["auroc"] is not None:
                lines.append(f"{probe.name}, {row['label']}: {row['note']}.")
    return lines


def _provenance(config, splits: Splits) -> dict[str, str]:
    metadata = splits.test.source.metadata
    return {
        "encoder": config.encoder,
        "baselines": config.baselines,
        "dataset": f"{config.dataset} ({splits.test.source.folder.parent.name}, version "
        f"{splits.test.source.folder.name})",
        "splits": metadata["split_rule"],
        "licence of the films": metadata["licence"],
        "films skipped when it was built": str(metadata["skipped"]),
        "seed": str(config.seed),
        "versions": ", ".join(f"{n} {importlib.metadata.version(n)}" for n in _VERSIONS_OF),
    }

"""Retrieval: recall at 1, 5 and 10 from an image to its report and back, with intervals.

The workdir holds retrieval.json and the same as a table, retrieval.md. No report leaves the
dataset.
"""

import json
from pathlib import Path

import ml_collections
import numpy as np

from cxr_jax import weights
from cxr_jax.config import check_positive
from cxr_jax.data import reports, seen_images, tasks
from cxr_jax.data.source import load_source
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.experiments import _transfer_inputs, _transfer_report, _workdir
from cxr_jax.experiments._workdir import open_workdir
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.report import tables
from cxr_jax.transfer.retrieval import ranks, recall_rows
from cxr_jax.weights.encoder import text_encoder


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Measures config.encoder on the images of config.dataset that have a report.

    Raises ValueError for an encoder without a text tower, and a split with fewer than two patients
    with reports; as weights.load and load_source.
    """
    check_positive(config, ("batch_size", "num_resamples"))
    if not config.dataset or not config.encoder:
        raise ValueError("config.encoder and config.dataset name what is measured, and on what")
    encoder = weights.load(config.encoder)
    tower = text_encoder(encoder)
    source = load_source(config.dataset, config.data.dir, config.split, fields=("image",))
    if "report" not in source.fields:
        raise ValueError(f"dataset {config.dataset} has no reports; build it with them")
    columns = source.columns(("report", "image_id", "patient_id"))
    texts = reports.sentences_of(columns["report"], config.sections, whole=True)
    rows = np.array([row for row, text in enumerate(texts) if text], int)
    said = [texts[row][0] for row in rows]
    patients = np.array([columns["patient_id"][row] for row in rows], str)
    if len(set(patients.tolist())) < 2:
        raise ValueError(
            f"{config.dataset} {config.split!r}: {len(rows):,} images of fewer than two patients "
            f"have a report with a section {' or '.join(config.sections) or '(any)'}; "
            "--config.sections='()' takes reports whole, --config.split another split"
        )
    open_workdir(workdir, config)
    images = {f"{config.dataset} {config.split}": _workdir.fingerprint_images(source)}
    of_encoder = {config.encoder: _workdir.fingerprint_weights(encoder, tower.text.reads())}
    _workdir.write_provenance(workdir, config, images, of_encoder)

    lengths = tower.lengths(said)
    cut = int((lengths > tower.text.max_tokens).sum())
    if cut:
        print(
            f"{cut:,} of {len(said):,} reports are longer than the {tower.text.max_tokens} tokens "
            f"that the text tower reads, and end there (the longest has {lengths.max():,})."
        )
    seen = seen_images.seen_by_encoder(config.encoder, source)
    source = source.changed(fit=encoder.fit)
    features = _transfer_inputs.extract(
        encoder, _unlabelled(source, rows, columns), config.batch_size, config.split
    )
    distinct, words = np.unique(said, return_inverse=True)
    vectors = tower(distinct.tolist(), cut=True)[words]
    place, count = ranks(tower.images(features), vectors, patients, words)
    found = recall_rows(place, count, patients, config.num_resamples, config.seed)
    facts = {
        "encoder": encoder.name,
        **{"images": len(rows), "patients": len(set(patients.tolist()))},
        **{"different reports": len(distinct), "reports cut": cut},
        "without report": len(source) - len(rows),
        "seen": _counted(seen, rows),
        "median rank": dict(zip(("image to report", "report to image"), np.median(place, axis=0))),
        "recall": found,
    }
    atomic_write_text(workdir / "retrieval.json", json.dumps(facts, indent=2) + "\n")
    exposure = _transfer_report.exposure_lines({config.encoder: seen}, rows, config.dataset)
    page = _page(config, facts, *exposure)
    atomic_write_text(workdir / "retrieval.md", page)
    print(page)


def fingerprints(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the fingerprint of the images, as in provenance.json."""
    source = load_source(config.dataset, config.data.dir, config.split, fields=("image",))
    return {f"{config.dataset} {config.split}": _workdir.fingerprint_images(source)}


def _unlabelled(source, rows: np.ndarray, columns) -> LabelledSplit:
    none = np.zeros((len(rows), 0))
    ids = (tuple(columns[name][row] for row in rows) for name in ("image_id", "patient_id"))
    return LabelledSplit(source, rows, none, none.astype(bool), *ids, (), tasks.Task({}), 0)


def _counted(seen: seen_images.Seen | None, rows: np.ndarray) -> dict[str, int | None] | None:
    """Counts the images that the encoder saw in training, and those of patients that it saw."""
    if seen is None:
        return None
    patients = None if seen.patient is None else int(seen.patient[rows].sum())
    return {"images": int(seen.image[rows].sum()), "patients": patients}


def _page(config, facts, warnings: list[str], exposure: list[str]) -> str:
    lines = [
        f"# Retrieval: {facts['encoder']} on {config.dataset} ({config.split})",
        "",
        *(line for warning in warnings for line in (warning, "")),
        f"{facts['images']:,} images of {facts['patients']:,} patients, "
        f"{facts['different reports']:,} different reports; {facts['reports cut']:,} reports are "
        "longer than the text tower reads and end there. Other pairs of the same patient, and "
        "reports of the same words, are no distractors. 95 % intervals: resampled patients.",
        "",
        "| | recall at | | chance |",
        "|---|---|---|---|",
    ]
    for row in facts["recall"]:
        recall = tables.with_interval(row, "recall")
        lines.append(
            f"| {row['direction']} | {row['k']} | {recall} | {tables.number(row['chance'])} |"
        )
    return "\n".join([*lines, "", *exposure]) + "\n"

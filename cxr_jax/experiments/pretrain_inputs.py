"""What a pretraining is given, or refused: images, their reports, weights to start from."""

from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cxr_jax.data import exposure
from cxr_jax.data.reports import Reports, open_reports
from cxr_jax.data.source import Source, load_source
from cxr_jax.experiments import _provenance, initial, text_start
from cxr_jax.training import checkpoint
from cxr_jax.weights.encoder import Encoder


class Inputs(NamedTuple):
    """The images to train on, those without a report left out where reports are asked for.

    marks, encoders, texts: of the images and of the weights, as provenance.json holds them.
    start, text: None where nothing is loaded, as in a run that goes on.
    """

    source: Source
    marks: dict[str, str | None]
    reports: Reports | None
    start: Encoder | None
    text: dict[str, Any] | None
    encoders: dict[str, str]
    texts: dict[str, str]


def open_inputs(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Inputs]:
    """The inputs, and the config with what the weights of config.init bring.

    `workdir` is looked into, not touched.

    Raises:
      ValueError, FileNotFoundError: a config that cannot run, images, reports or weights that are
        not there or do not fit.
    """
    config, start = initial.find(config, workdir)
    source, reports = load_images(config), None
    marks = mark(config, source)
    _check_resumed(workdir, marks)
    if config.batch_size < 2:
        raise ValueError(
            f"config.batch_size={config.batch_size}: a pretraining compares images with each other, "
            f"so a batch holds two or more ({source.name} {source.split!r} has {len(source):,})"
        )
    if config.data.get("reports"):
        source, reports = open_reports(source, config.data.reports, workdir)
    text = text_start.read(config, workdir)
    encoders = {config.init: _provenance.fingerprint_weights(start)} if start else {}
    texts = {config.objective.text.weights: _provenance.fingerprint_arrays(text)} if text else {}
    return config, Inputs(source, marks, reports, start, text, encoders, texts)


def _check_resumed(workdir: Path, marks: dict[str, str | None]) -> None:
    """Refuses to go on with other images, or of a run of which nobody knows the config.

    The place in the data is a number, and the ledger says what the encoder had seen: both would be
    those of the new images.
    """
    if not checkpoint.exists(workdir):
        return
    if not (workdir / "config.json").is_file():
        raise FileNotFoundError(
            f"{workdir} has checkpoints, but its config.json is missing: restore it, or copy it "
            f"from {workdir / checkpoint.FOLDER}/<step>/config/metadata"
        )
    if not (workdir / _provenance.FILE).is_file():
        return
    before = _provenance.read(workdir)["starts"][-1]["dataset"]
    if list(before.values()) != list(marks.values()):
        lines = "\n".join(f"  {line}" for line in _provenance.differences(before, marks))
        raise ValueError(
            f"the images are no longer those that {workdir} was begun with:\n{lines}\n"
            "Bring that dataset back, or begin anew in another --workdir"
        )


def load_images(config: ConfigDict) -> Source:
    """The images to train on, without those of config.data.exclude."""
    data = config.data
    source = load_source(data.name, data.dir, data.split, fields=("image",))
    excluded = [name.strip() for name in data.exclude.split(",") if name.strip()]
    if not excluded:
        return source
    kept = exposure.without(source, excluded, data.dir)
    print(f"Left out {len(source) - len(kept):,} images that {', '.join(excluded)} may share.")
    return kept


def mark(config: ConfigDict, source: Source) -> dict[str, str | None]:
    """Of the images before those without a report are left out: a dataset that is the same."""
    return {f"{config.data.name} {config.data.split}": _provenance.fingerprint_images(source)}

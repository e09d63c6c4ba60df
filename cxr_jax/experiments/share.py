"""Share: means of an encoder and the one it started from, compared on validation images.

A probe is a transfer whose test images are the validation images, which also chose its C: good
enough to order shares, too good as a score. The workdir holds share.csv and share.png, and in
encoder/ the mean that was best on average over the datasets, as weights.export writes it; where
that is the start itself, none.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Float

from cxr_jax import weights
from cxr_jax.data import seen_images
from cxr_jax.experiments import _transfer_inputs, _workdir, transfer
from cxr_jax.experiments._benchmark_grid import Cell, dataset_and_task, transfer_config
from cxr_jax.experiments._workdir import open_workdir
from cxr_jax.io import COMMAND
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.io.json import read_json
from cxr_jax.objectives._average import mix
from cxr_jax.report import figures
from cxr_jax.report.benchmark.tables import to_csv
from cxr_jax.report.tables import with_interval
from cxr_jax.transfer._protocol import Protocol, Splits, Tools
from cxr_jax.transfer.metrics import metric_rows
from cxr_jax.weights import export
from cxr_jax.weights.card import model_card
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import safetensors

_PROTOCOLS = ("knn", "linear", "finetune")  # whose scores are AUROCs, of features or images alone
_OF_A_ROW = ("label", "n_pos", "n_neg", "auroc", "low", "high")


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Scores every share on every dataset and writes tables, picture and the best encoder.

    Raises ValueError, before anything is written, for an encoder that is not from a pretraining
    with config.init, for shares outside of 0 to 1, and as a transfer does.
    """
    _check(config)
    start, trained = ends(config.encoder)
    _transfer_inputs.at_size(trained, config.transfer.read_size)  # refuses what it cannot read
    _, path = weights.parse_spec(config.encoder)
    names = list(dict.fromkeys(filter(None, map(str.strip, config.datasets.split(",")))))
    probes = [_probe(config, workdir, name) for name in names]
    open_workdir(workdir, config)
    lines, means = [], np.zeros((len(config.shares), len(names)))
    limits = np.zeros((2, *means.shape))
    for place, share in enumerate(config.shares):
        for column, (name, probe) in enumerate(zip(names, probes)):
            rows = _score(probe, _at(start, trained, share))
            what = {"dataset": name, "share": share}
            lines += [what | {field: row[field] for field in _OF_A_ROW} for row in rows]
            if rows[-1]["auroc"] is None:
                raise ValueError(
                    f"{name}: its validation images are too few to score ({rows[-1].get('note')})"
                )
            means[place, column] = rows[-1]["auroc"]
            limits[:, place, column] = rows[-1]["low"], rows[-1]["high"]
            images = f"{len(probe.splits.test.rows):,} images"
            said = with_interval(rows[-1])
            print(f"{share:g} of the start, {name}, {images}: AUROC {said}", flush=True)
        atomic_write_text(workdir / "share.csv", to_csv(["dataset", "share", *_OF_A_ROW], lines))
    _draw(workdir / "share.png", config.shares, names, means, limits)
    _, best = max(zip(means.mean(axis=1), config.shares))  # of equals the one that keeps more
    folder = workdir / "encoder"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier start of this run
    if best == 1:
        print(
            "Best on average: all of the start, as if nothing had been trained. Before you believe "
            f"it, see by the intervals what these images can tell: {workdir}/share.png"
        )
        return
    _write_encoder(folder, _at(start, trained, best), Path(path).expanduser())
    print(
        f"Best on average: {best:g} of the start, in {folder}; the curves: {workdir}/share.png\n"
        "Next, score it on test images:\n"
        f"  {COMMAND} --config=configs/transfer.py --config.encoder={folder} "
        f"--config.baselines={config.encoder} --config.dataset=<a labelled dataset> "
        f"--config.data.dir={config.data.dir}"
    )


def ends(spec: str) -> tuple[Encoder, Encoder]:
    """Returns the encoder that a pretraining started from, and what it made of it.

    `spec` is its workdir, which exports a mean of both where config.start_share says so. Raises
    ValueError for what has no start, or one that has changed since, and as weights.load.
    """
    exported, workdir = weights.load(spec), Path(weights.parse_spec(spec)[1]).expanduser()
    path = workdir / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not config.get("init"):
        raise ValueError(
            f"config.encoder={spec} has no start to be averaged with: name the workdir of a "
            "pretraining with config.init, such as configs/moco.py:adapt"
        )
    own = config.get("start_share", 0.0)
    began = weights.load(config["init"])
    # As older versions read Ark+'s images, and DINOv2's files with registers: of the same weights.
    model = {name: value for name, value in began.model.items() if name in config["model"]}
    older = began._replace(model=model, fit="crop")
    if (workdir / _workdir.PROVENANCE).is_file():
        for last in _workdir.read_provenance(workdir)["starts"][-1:]:
            known = last.get("encoders", {}).get(config["init"])
            if known and known not in map(_workdir.fingerprint_weights, (began, older)):
                raise ValueError(
                    f"config.encoder={spec} started from other weights than those that its "
                    f"config.init={config['init']} names now: put those of then back"
                )
    start = began.variables
    trained = mix(start, exported.variables, own / (own - 1))
    clipped = jax.tree_util.tree_map_with_path(_not_negative, trained)
    return exported._replace(variables=start), exported._replace(variables=clipped)


def _not_negative(path: Sequence[Any], leaf: Any) -> Any:
    """Undoes what rounding makes of the variance of a channel that is nearly constant."""
    return np.maximum(leaf, 0) if path[-1].key == "var" else leaf


def _at(start: Encoder, trained: Encoder, share: float) -> Encoder:
    variables = mix(start.variables, trained.variables, share)
    return trained._replace(
        name=f"{share:g} start + {1 - share:g} {trained.name}", variables=variables, text=None
    )


def _check(config: ml_collections.ConfigDict) -> None:
    if not config.encoder or not config.datasets:
        raise ValueError(
            "config.encoder and config.datasets are needed: the workdir of a pretraining with "
            "config.init, and labelled datasets by commas"
        )
    if not config.shares or not all(0 <= share <= 1 for share in config.shares):
        raise ValueError(f"config.shares={config.shares}: shares lie between 0 and 1")
    if config.transfer.protocol not in _PROTOCOLS:
        raise ValueError(
            f"config.transfer.protocol={config.transfer.protocol}: shares are compared by AUROC on "
            f"validation images; use {', '.join(_PROTOCOLS)}"
        )


class _Probe(NamedTuple):
    """What is the same for all shares of a dataset; test images are the validation images."""

    config: ml_collections.ConfigDict
    protocol: Protocol
    splits: Splits


def _probe(config: ml_collections.ConfigDict, workdir: Path, name: str) -> _Probe:
    protocol = config.transfer.protocol
    cell = Cell("", config.encoder, *dataset_and_task(name), protocol, fraction=1.0, seed=0)
    changed = transfer_config(config, cell)
    if changed.folds and "test" in changed.folds_of:
        raise ValueError(
            f"{name}: config.transfer.folds={changed.folds} scores test images too, and shares "
            "are chosen without: add config.transfer.folds_of=train+validation"
        )
    changed.feature_cache = changed.feature_cache or str(workdir / "features")
    splits = _transfer_inputs.load_splits(changed)
    splits = splits._replace(test=splits.validation)
    return _Probe(changed, _transfer_inputs.protocol(changed), splits)


def _score(probe: _Probe, encoder: Encoder) -> list[dict[str, Any]]:
    """Returns rows as in metrics.json."""
    config, splits = probe.config, _transfer_inputs.as_read_by(encoder, probe.splits)
    encoder = _transfer_inputs.at_size(encoder, config.read_size)
    features = _transfer_inputs.frozen_features(config, encoder, splits)
    result = probe.protocol.run(encoder, splits, Tools(features, print, lambda step, values: None))
    predictions, not_scored = transfer.predictions_of(splits.test, result)
    return metric_rows(predictions, config.num_resamples, config.seed, not_scored)


def _draw(
    path: Path,
    shares: Sequence[float],
    names: Sequence[str],
    means: Float[np.ndarray, "shares datasets"],
    limits: Float[np.ndarray, "2 shares datasets"],
) -> None:
    """Draws AUROC against the share, a line for each dataset in the band of its intervals."""
    figure, grid = figures.new_figure(7.0, 4.6)
    axes = grid[0, 0]
    for index, name in enumerate(names):
        colour, marker, line = figures.style(index)
        axes.plot(shares, means[:, index], line, marker=marker, color=colour, label=name)
        axes.fill_between(shares, *limits[:, :, index], color=colour, alpha=0.1, linewidth=0)
    axes.set(
        xlabel="share of the weights it started from",
        ylabel="AUROC on validation images, 95 % interval",
    )
    figures.bare(axes, "y")
    figures.finish(figure, path, dict(enumerate(names)), (), "")


def _write_encoder(folder: Path, encoder: Encoder, workdir: Path) -> None:
    """Writes the encoder as weights.export does, with the images that the pretraining has seen."""
    exported = safetensors.export(encoder)
    card = model_card(encoder, exported, str(workdir), None, "")
    with export.atomic_folder(folder) as temporary:
        export.write_folder(temporary, exported, card)
        if seen := seen_images.find(workdir):
            shutil.copy(seen, temporary / seen_images.FILE)

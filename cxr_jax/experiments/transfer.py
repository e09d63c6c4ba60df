"""Transfer: encoders on one labelled dataset by one protocol, compared.

The encoder's results are in the workdir (predictions.parquet, metrics.json), each baseline's in
baselines/<n>-<name>/, the comparison in comparisons.json and the report. Of an encoder that is
several pretrainings (runs/a+runs/b) these are the first's, and the others' are in
pretrainings/<n>-<name>/ below; comparison and report are of all. What a training logs on its way is
in training/ below these folders; finished folds are in folds/ until all are.
"""

import functools
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from cxr_jax import weights
from cxr_jax.config import check_positive, flat
from cxr_jax.data import seen_images
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.experiments import _maps, _pictures, _transfer_inputs, _transfer_report, _workdir
from cxr_jax.experiments._pretrainings import pretrainings
from cxr_jax.experiments._transfer_report import Outcome
from cxr_jax.experiments._workdir import as_json, open_workdir
from cxr_jax.io.atomic import atomic_write_text
from cxr_jax.io.json import read_json
from cxr_jax.report import tables
from cxr_jax.report.transfer import Run
from cxr_jax.training import loggers
from cxr_jax.training.log import Writer, write_results
from cxr_jax.transfer import _features, image_table
from cxr_jax.transfer._protocol import Protocol, Result, Splits, Tools
from cxr_jax.transfer.metrics import compare, metric_rows
from cxr_jax.transfer.predictions import Predictions, read_parquet, write_parquet
from cxr_jax.weights.encoder import Encoder

_MOST_BYTES = 200_000_000  # of a fold's result


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    page: bool = True,
    encoders: list[Encoder] | None = None,
) -> None:
    """Scores config.encoder and config.baselines on config.dataset and writes the report.

    Without `page` the results alone: `python -m cxr_jax.report WORKDIR` makes a page of them.
    `encoders` are those that the config names, where they are loaded already.
    """
    chosen = _check_fields(config)
    if config.finetune.mean_teacher.weight and config.protocol != "finetune":
        print(
            f"config.finetune.mean_teacher is not used by config.protocol={config.protocol}; "
            "--config.protocol=finetune does"
        )
    encoders = encoders or _transfer_inputs.load_encoders(config)
    for encoder in encoders:
        chosen.reads(encoder)
    _run(config, workdir, chosen, encoders, _transfer_inputs.load_splits(config), page)


def fingerprints(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Returns the fingerprints, for provenance.json, of the images trained and tested on."""
    return _transfer_inputs.fingerprint_splits(config, _transfer_inputs.load_splits(config))


def can_share(config: ml_collections.ConfigDict) -> bool:
    """Returns whether `run_together` can run transfers like this one."""
    try:
        return _transfer_inputs.protocol(config).run_many is not None
    except ValueError:  # whoever runs it alone will hear why
        return False


def run_together(
    configs: Sequence[ml_collections.ConfigDict], workdirs: Sequence[Path], encoder: Encoder
) -> None:
    """Does what `run` without `page` does for each config in its workdir, all fitted together.

    The configs name `encoder` and no baselines, and differ in label fraction and seed alone; their
    protocol must have `run_many`. The features are read once.
    """
    first = configs[0]
    chosen = _check_fields(first)
    whole = _transfer_inputs.as_read_by(encoder, _transfer_inputs.load_whole_splits(first))
    subsets = [_transfer_inputs.training_rows(config, whole) for config in configs]
    print(f"{encoder.name}: {chosen.title.lower()} of {len(subsets)} label fractions and seeds")
    features = _transfer_inputs.frozen_features(first, encoder, whole)
    tools = Tools(features, functools.partial(print, flush=True), None)
    results = chosen.run_many(encoder, whole, subsets, tools)
    for config, workdir, rows, result in zip(configs, workdirs, subsets, results, strict=True):
        fitted = chosen._replace(run=lambda *_, found=result: found)
        _run(config, workdir, fitted, [encoder], _transfer_inputs.cut(whole, rows), page=False)


def _run(
    config, workdir: Path, chosen: Protocol, encoders: list[Encoder], splits: Splits, page: bool
) -> None:
    _pictures.check(config, splits.test)
    open_workdir(workdir, config)
    for name, text in chosen.files.items():
        atomic_write_text(workdir / name, text)
    specs = _transfer_inputs.specs(config)
    of_encoders = {
        spec: _workdir.fingerprint_weights(encoder, chosen.reads(encoder))
        for spec, encoder in zip(specs, encoders, strict=True)
    }
    of_splits = _transfer_inputs.fingerprint_splits(config, splits)
    _workdir.write_provenance(workdir, config, of_splits, of_encoders)
    count = {name: f"{split.labelled.sum():,}" for name, split in splits._asdict().items()}
    sizes = "{train} training, {validation} validation and {test} test images".format(**count)
    if config.folds:
        sizes = splits.test.size()
    labels = ", ".join(splits.test.label_names)
    print(f"{chosen.title} on {config.dataset}: {sizes}; labels: {labels}")
    seen = {spec: seen_images.seen_by_encoder(spec, splits.test.source) for spec in specs}
    outcomes: dict[str, Outcome] = {}
    named, groups = dict(zip(specs, encoders, strict=True)), _transfer_inputs.groups(config)
    for spec, folder in _folders(workdir, groups, named).items():
        encoder, exposed, index = named[spec], seen[spec], len(outcomes)
        own = _transfer_inputs.as_read_by(encoder, splits)
        features = _transfer_inputs.frozen_features(config, encoder, own)
        maps = _maps.frozen_maps(config, encoder, own, workdir / "maps")
        scored = _score(config, chosen, encoder, own, features, maps, folder, not index)
        outcomes[spec] = scored
        table = _transfer_report.image_table(splits.test, exposed)
        image_table.write_parquet(table, folder / "films.parquet")
        if config.export_features and not index:
            path = Path(config.export_features).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            written = _transfer_inputs.parts(config, splits)
            of_pool = functools.partial(lambda read, _: read("test"), features)
            count = _features.write(path, written, of_pool if config.folds else features)
            print(f"Features of {count:,} images: {path}")
    shutil.rmtree(workdir / "maps", ignore_errors=True)
    draws = config.num_resamples, config.seed
    runs = [
        _transfer_report.together(
            [outcomes[spec] for spec in group], splits, seen[group[0]], *draws
        )
        for group in groups
    ]
    comparisons = [
        compare(runs[0].every, other.every, (runs[0].name, other.name), *draws)
        for other in runs[1:]
    ]
    _write_json(workdir / "comparisons.json", comparisons)
    if page:
        made = chosen, runs, list(outcomes.values()), comparisons
        _transfer_report.report(config, workdir, *made, splits, seen)
    _log(config, workdir, runs)


def _folders(
    workdir: Path, groups: list[list[str]], encoders: Mapping[str, Encoder]
) -> dict[str, Path]:
    """Returns where each pretraining's results go, as the module's docstring says."""

    def numbered(place: Path, number: int, spec: str) -> Path:
        return place / f"{number}-{re.sub(r'[^A-Za-z0-9]+', '-', encoders[spec].name)}"

    found = {}
    for index, (first, *others) in enumerate(groups):
        found[first] = numbered(workdir / "baselines", index, first) if index else workdir
        for number, spec in enumerate(others, start=1):
            found[spec] = numbered(found[first] / "pretrainings", number, spec)
    return found


def _log(config, workdir: Path, runs: list[Run]) -> None:
    """Writes the means to metrics.jsonl, and to the loggers every label's number too."""
    lines, more = [], {}
    for run in runs:
        known = {row["label"]: tables.value(row) for row in run.rows}
        known = {label: number for label, number in known.items() if number is not None}
        key, macro = tables.key(run.rows[-1]), known.pop("macro", None)
        more |= {f"{run.name}/{key}/{label}": known[label] for label in known}
        if macro is not None:
            if run is runs[0]:  # beside the hyperparameters, of whatever name
                more[f"macro_{key}"] = macro
            lines.append({f"{run.name}/macro_{key}": macro})
    write_results(workdir, config.loggers, dict(flat(as_json(config))), 0, lines, more)


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError or FileNotFoundError for what would fail apart from the encoder itself."""
    chosen = _check_fields(config)
    others = _transfer_inputs.baselines(config)
    for spec in (one for other in others for one in pretrainings("config.baselines", other)):
        chosen.reads(Encoder(spec, {}, {}, 1) if spec == "random" else weights.load(spec))
    _pictures.check(config, _transfer_inputs.load_splits(config).test)


def _check_fields(config: ml_collections.ConfigDict) -> Protocol:
    check_positive(config, ("batch_size", "image_size", "num_resamples"))
    if not config.dataset:
        raise ValueError(
            "config.dataset is empty; name a labelled dataset, for example --config.dataset=phantom"
        )
    if not config.encoder:
        raise ValueError("config.encoder is empty; name a workdir, a weights file, or random")
    if config.export_features:
        if len(_transfer_inputs.groups(config)[0]) > 1:
            raise ValueError(
                f"config.export_features is one encoder's, and config.encoder={config.encoder} is "
                "several pretrainings: name one of them"
            )
        _features.check_path(Path(config.export_features), "config.export_features")
    loggers.check(config.loggers)
    return _transfer_inputs.protocol(config)


def _score(
    config, chosen: Protocol, encoder: Encoder, splits, features, maps, folder: Path, first: bool
) -> Outcome:
    """Returns one encoder's result, read back if an earlier start of this run finished it."""
    finished, names = folder / "probe.json", splits.test.label_names
    now = _transfer_inputs.fingerprint(config, encoder, splits)
    if finished.exists():
        if before := _read_finished(folder, encoder.name, now, names):
            return before
        finished.unlink()  # it must not be beside what another result leaves
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{encoder.name}: {chosen.title.lower()}", flush=True)
    shutil.rmtree(folder / "training", ignore_errors=True)  # of a start that was killed
    curves = _Curves(folder / "training")
    once = functools.partial(_once, folder / "folds", now)
    tools = Tools(features, functools.partial(print, flush=True), curves.scalars, once, maps)
    result = chosen.run(encoder, splits, tools)
    curves.close()
    predictions, not_scored = predictions_of(splits.test, result)
    rows = metric_rows(predictions, config.num_resamples, config.seed, not_scored)
    facts = {
        "fingerprint": now,
        "protocol": config.protocol,
        "image_size": encoder.image_size,
        "num_images": int(splits.train.labelled.sum()),
        **result.facts,
        "summary": result.summary,
        "notes": {names[k]: note for k, note in result.notes.items()},
        "remarks": list(result.remarks),
        "not_scored": not_scored,
    }
    write_parquet(predictions, folder / "predictions.parquet")
    _write_json(folder / "metrics.json", rows)
    if config.pictures.draw and first:
        try:
            _pictures.draw(config, encoder, splits, result, features, folder, chosen.learns)
        except Exception as error:  # a result, perhaps of hours, is not lost for want of a picture
            print(f"WARNING: {encoder.name} has no pictures: {type(error).__name__}: {error}")
    _write_json(finished, facts)  # last: its presence says that the others are whole
    shutil.rmtree(folder / "folds", ignore_errors=True)
    print(f"{encoder.name}: macro {tables.measure(rows[-1])} {tables.with_interval(rows[-1])}")
    return Outcome(encoder.name, predictions, rows, facts)


def predictions_of(test: LabelledSplit, result: Result) -> tuple[Predictions, dict[str, str]]:
    """Returns the scores of the labels that could be scored, and why the others could not."""
    names = test.label_names
    scored = np.flatnonzero(result.scored)
    predictions = Predictions(
        *test.hashed_ids(),
        tuple(names[k] for k in scored),
        test.targets[:, scored],
        result.scores[:, scored],
        result.score_kind,
        result.fold,
    )
    return predictions, {names[k]: reason for k, reason in result.not_scored.items()}


def is_of(facts, predictions: Predictions, fingerprint: str, names: tuple[str, ...]) -> bool:
    """Returns whether a result is of this fingerprint and of labels of these names.

    Fingerprints hold targets without names, which a corrected table may have exchanged.
    """
    scored = tuple(name for name in names if name not in facts.get("not_scored", ()))
    return facts.get("fingerprint") == fingerprint and predictions.label_names == scored


def _read_finished(folder: Path, name: str, fingerprint: str, names) -> Outcome | None:
    """Reads a result; None for one of something else and a damaged one: it is made again."""
    try:
        facts = read_json(folder / "probe.json")
        rows = read_json(folder / "metrics.json", list)
        predictions = read_parquet(folder / "predictions.parquet")
        if not is_of(facts, predictions, fingerprint, names):
            return None
    except (ValueError, OSError) as error:
        print(f"WARNING: {name}: its result is made again, because {error}")
        return None
    print(f"{name}: finished before")
    return Outcome(name, predictions, rows, facts)


def _once(folder: Path, fingerprint: str, fold: int, make: Callable[[], Result]) -> Result:
    """Returns a fold's result, of an earlier start that was killed after it, or made and kept."""
    path = folder / f"{fold + 1}.json"
    try:
        held = read_json(path, most=_MOST_BYTES)
        if held.pop("fingerprint") == fingerprint:
            for name in ("not_scored", "notes"):
                held[name] = {int(label): said for label, said in held[name].items()}
            found = Result(**held | {"scores": np.array(held["scores"], np.float64)})
            print(f"fold {fold + 1}: finished before", flush=True)
            return found
    except FileNotFoundError:
        pass
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        print(f"WARNING: fold {fold + 1} is made again, because {error}")
    result = make()
    left_out = ("head", "fold", "shown")
    held = {name: value for name, value in result._asdict().items() if name not in left_out}
    held["scores"] = np.where(np.isnan(result.scores), None, result.scores).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(path, {"fingerprint": fingerprint, **held})
    return result


class _Curves:
    """A Writer that makes its folder when the first numbers come: a probe has none."""

    def __init__(self, folder: Path):
        self._folder, self._writer = folder, None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            self._folder.mkdir(parents=True)
            self._writer = Writer(self._folder)
        self._writer.scalars(step, values)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _write_json(path: Path, value) -> None:
    atomic_write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")

"""The model card of an export: README.md with the YAML head that model hubs read."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_jax import models
from cxr_jax.data import seen_images
from cxr_jax.data.dataset_info import dataset_names
from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported, describe


def model_card(
    encoder: Encoder, exported: Exported, source: str, scores: Path | None, licence: str
) -> str:
    """Writes the README.md that goes out with an encoder, in Markdown.

    Args:
      source: where the encoder came from; if it is a pretraining's workdir, its config and its seen
        images say what was done and what was seen.
      scores: a transfer's workdir, whose metrics.json becomes a table; None: no scores.
      licence: "": none is stated.

    Raises FileNotFoundError for `scores` without a metrics.json, ValueError for another encoder's.
    """
    dtype, rounded = encoder.model.get("dtype", "float32"), ""
    if dtype != "float32":
        rounded = (
            f"\n\nTrained and scored in {dtype}: features of a tool that computes in float32 "
            "differ by its rounding."
        )
    parts = [
        f"---\n{_head(encoder, exported, Path(source), scores, licence)}\n---",
        f"# {encoder.name}\n\nAn image encoder, exported by cxr_jax.",
        f"## How to load it\n\n```python\n{exported.usage}\n```",
        f"## What it reads\n\n{_reads(encoder, exported)}",
        f"## Architecture\n\n```json\n{json.dumps(encoder.model)}\n```{rounded}",
        f"## Training\n\n{_training(Path(source), encoder)}",
        f"## Images seen\n\n{_images_seen(Path(source))}",
        f"## Scores\n\n{_scores(scores, encoder)}",
        f"## Licence\n\n{licence or 'None is stated; the training data may have its own terms.'}",
        "Not a medical device; not for clinical decisions.",
    ]
    return "\n\n".join(parts) + "\n"


def _head(
    encoder: Encoder, exported: Exported, source: Path, scores: Path | None, licence: str
) -> str:
    """Returns the lines between the dashes, YAML whose values are JSON."""
    head: dict[str, Any] = {
        "library_name": exported.library or "cxr_jax",
        "pipeline_tag": "image-feature-extraction",
    }
    head |= {"license": "other", "license_name": licence} if licence else {}
    head |= {"tags": ["chest-x-ray", "radiology", "self-supervised-learning"]}
    seen = seen_images.read(source).dataset.tolist() if seen_images.find(source) else []
    public = [name for name in dataset_names() if name in {of.split("/")[0] for of in seen}]
    # The name of a folder of the user's own says nothing there, and perhaps too much.
    if public := [name for name in public if name not in ("image_folder", "phantom")]:
        head["datasets"] = public
    if scores is not None:
        index = _index(scores, encoder)
        kinds = {value["type"] for value in index["results"][0]["metrics"]}
        head |= {"metrics": sorted(kinds), "model-index": [index]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in head.items()]
    if not licence:
        lines.append("# license: yours to fill in, or --licence; the training data may bind it")
    return "\n".join(lines)


def _index(scores: Path, encoder: Encoder) -> dict[str, Any]:
    path, config = _metrics(scores), scores / "config.json"
    facts = read_json(config) if config.is_file() else {}
    rows = read_json(path, list)
    with _damage_of(path):
        measure, field = _measured(rows[-1])
        kind = "roc_auc" if field == "auroc" else measure
        values = [
            {"type": kind, "name": f"{measure}, {row['label']}", "value": round(row[field], 4)}
            for row in rows
            if row[field] is not None
        ]
    dataset = str(facts.get("dataset", "unknown"))
    task = {"type": "image-classification", "name": str(facts.get("protocol", "transfer"))}
    data = {"type": dataset.split("/")[0], "name": dataset, "split": "test"}
    return {
        "name": encoder.name,
        "results": [{"task": task, "dataset": data, "metrics": values}],
    }


def _metrics(workdir: Path) -> Path:
    path = workdir / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"--scores={workdir}: no metrics.json in it; name a transfer's workdir"
        )
    return path


def _reads(encoder: Encoder, exported: Exported) -> str:
    model = models.build(encoder.model)
    images = describe(encoder)
    mean, std = (", ".join(f"{v:.6g}" for v in values) for values in (model.mean, model.std))
    numbers = f"(pixel - mean) / std with mean {mean} and std {std}"
    if exported.normalises:
        return f"{images}, as they are: {numbers} is done inside."
    three = len(model.mean) == 3 or exported.library == "torchvision"
    channels = "the grey image repeated in three channels" if three else "one channel, not three"
    return f"{images}, then {numbers} ({channels})."


def _training(workdir: Path, encoder: Encoder) -> str:
    path = workdir / "config.json"
    config = read_json(path) if path.is_file() else {}
    if config.get("experiment") != "pretrain":  # the JSON of other tools has the same name
        return f"Not by cxr_jax: the weights were read from `{workdir.name}`."
    with _damage_of(path):
        return (
            f"{encoder.name} of {config['num_train_steps']}, batches of {config['batch_size']}, on "
            f"{config['data']['name']} ({config['data']['split']}), seed {config['seed']}.\n\n"
            f"```json\n{json.dumps({key: config[key] for key in ('objective', 'optimizer')})}\n```"
        )


@contextlib.contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Names the file in errors about what it lacks, or has as another type."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: not what a run writes ({error!r})") from error


def _images_seen(workdir: Path) -> str:
    if not seen_images.find(workdir):
        return "Not recorded."
    seen = seen_images.read(workdir)
    counts = Counter(zip(seen.dataset.tolist(), seen.split.tolist()))
    lines = [f"| {name} | {split} | {count:,} |" for (name, split), count in counts.items()]
    table = "\n".join(["| dataset | split | images |", "|---|---|---|", *lines])
    start = seen_images.read_unknown_start(workdir)
    return f"{table}\n\nIt started from {start}, whose images are not recorded." if start else table


def _scores(workdir: Path | None, encoder: Encoder) -> str:
    if workdir is None:
        return "None are given."
    path = _metrics(workdir)
    rows = read_json(path, list)
    with _damage_of(path):
        measure, field = _measured(rows[-1])
        lines = [
            f"| {row['label']} | {row['n_pos']} | {row['n_neg']} | {row[field]:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}] |"
            for row in rows
            if row[field] is not None
        ]
    header = [
        f"| label | positive | negative | test {measure}, 95 % interval |",
        "|---|---|---|---|",
    ]
    config = workdir / "config.json"
    what = ""
    if config.is_file():
        facts = read_json(config)
        with _damage_of(config):
            what = (
                f"{facts['dataset']}, protocol {facts['protocol']}, "
                f"{facts['label_fraction']:.0%} of the labels:\n\n"
            )
    return what + "\n".join(header + lines) + _against(workdir, encoder)


def _measured(row: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what a row of metrics.json or comparisons.json is of, and its field."""
    return (row["measure"], "mean") if "measure" in row else ("AUROC", "auroc")


def _against(workdir: Path, encoder: Encoder) -> str:
    """Lists the transfer's comparisons with baselines. Raises ValueError for another encoder's."""
    path = workdir / "comparisons.json"
    rows = read_json(path, list) if path.is_file() else []
    with _damage_of(path):
        # A transfer adds the path to a name that a baseline has too.
        others = {row["a"] for row in rows if not row["a"].startswith(encoder.name)}
        lines = [
            f"\n\nAgainst {row['b']}, of macro {_measured(row)[0]} "
            f"{row[_measured(row)[1] + '_b']:.3f}: "
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]."
            for row in rows
        ]
    if others:
        raise ValueError(
            f"--scores={workdir}: they are of {plain(', '.join(sorted(others)))}, not of "
            f"{encoder.name}"
        )
    return "".join(lines)

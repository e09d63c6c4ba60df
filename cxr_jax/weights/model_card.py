"""The README.md that goes out with an encoder: what it is, what it read, what it is worth."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxr_jax import models
from cxr_jax.data import seen_images
from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported


def model_card(
    encoder: Encoder, exported: Exported, source: str, scores: Path | None, licence: str
) -> str:
    """Markdown.

    Args:
      source: where the encoder came from; of a pretraining's workdir its config and its ledger say
        what was done and what was seen.
      scores: a transfer's workdir, whose metrics.json becomes a table; None: no scores.
      licence: "" is said to be none.

    Raises FileNotFoundError for `scores` without a metrics.json, ValueError for another encoder's.
    """
    parts = [
        f"# {encoder.name}\n\nAn image encoder, exported by cxr_jax.",
        f"## How to load it\n\n```python\n{exported.usage}\n```",
        f"## What it reads\n\n{_reads(encoder, exported)}",
        f"## Architecture\n\n```json\n{json.dumps(encoder.model)}\n```{_rounded(encoder)}",
        f"## Training\n\n{_training(Path(source), encoder)}",
        f"## Images seen\n\n{_images_seen(Path(source))}",
        f"## Scores\n\n{_scores(scores, encoder)}",
        f"## Licence\n\n{licence or 'None is stated; the training data may have its own terms.'}",
        "Not a medical device; not for clinical decisions.",
    ]
    return "\n\n".join(parts) + "\n"


def _reads(encoder: Encoder, exported: Exported) -> str:
    model = models.build(encoder.model)
    images = (
        f"Grey images, white = dense, shorter side brought to {encoder.image_size} px, the centre "
        "cropped; pixels in [0, 1]"
    )
    numbers = f"(pixel - mean) / std with mean {_listed(model.mean)} and std {_listed(model.std)}"
    if exported.normalises:
        return f"{images}, as they are: {numbers} is done inside."
    repeated = " (the grey image repeated in three channels)" if len(model.mean) == 3 else ""
    return f"{images}, then {numbers}{repeated}."


def _rounded(encoder: Encoder) -> str:
    if encoder.model.get("dtype", "float32") == "float32":
        return ""
    return (
        f"\n\nTrained and scored in {encoder.model['dtype']}: features of a tool that computes in "
        "float32 differ by its rounding."
    )


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _training(workdir: Path, encoder: Encoder) -> str:
    path = workdir / "config.json"
    if not path.is_file():
        return f"Not by cxr_jax: the weights were read from `{workdir.name}`."
    config: dict[str, Any] = read_json(path)
    with _damage_of(path):
        return (
            f"{encoder.name} of {config['num_train_steps']}, batches of {config['batch_size']}, on "
            f"{config['data']['name']} ({config['data']['split']}), seed {config['seed']}.\n\n"
            f"```json\n{json.dumps({key: config[key] for key in ('objective', 'optimizer')})}\n```"
        )


@contextlib.contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """What a file lacks, or has as another kind, is said to be its damage."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: not what a run writes ({error!r})") from error


def _images_seen(workdir: Path) -> str:
    if not (workdir / seen_images.FILE).is_file():
        return "No ledger of them was kept."
    seen = seen_images.read(workdir)
    counts = Counter(zip(seen.dataset.tolist(), seen.split.tolist()))
    lines = [f"| {name} | {split} | {count:,} |" for (name, split), count in counts.items()]
    table = "\n".join(["| dataset | split | images |", "|---|---|---|", *lines])
    start = seen_images.read_unknown_start(workdir)
    return f"{table}\n\nIt started from {start}, of which no ledger was kept." if start else table


def _scores(workdir: Path | None, encoder: Encoder) -> str:
    if workdir is None:
        return "None are given."
    path = workdir / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"--scores={workdir}: no metrics.json in it; name a transfer's workdir"
        )
    rows = read_json(path, list)
    with _damage_of(path):
        lines = [
            f"| {row['label']} | {row['n_pos']} | {row['n_neg']} | {row['auroc']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}] |"
            for row in rows
            if row["auroc"] is not None
        ]
    header = ["| label | positive | negative | test AUROC, 95 % interval |", "|---|---|---|---|"]
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


def _against(workdir: Path, encoder: Encoder) -> str:
    """The baselines that the transfer set beside it; not those of another encoder."""
    path = workdir / "comparisons.json"
    rows = read_json(path, list) if path.is_file() else []
    with _damage_of(path):
        # A transfer adds the path to a name that a baseline has too.
        others = {row["a"] for row in rows if not row["a"].startswith(encoder.name)}
        lines = [
            f"\n\nAgainst {row['b']}, of macro AUROC {row['auroc_b']:.3f}: "
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]."
            for row in rows
        ]
    if others:
        raise ValueError(
            f"--scores={workdir}: they are of {plain(', '.join(sorted(others)))}, not of {encoder.name}"
        )
    return "".join(lines)

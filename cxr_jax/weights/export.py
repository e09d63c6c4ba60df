"""Exports an encoder for other tools.

python -m cxr_jax.weights.export WORKDIR --format=FORMAT [--out=FOLDER]

WORKDIR is that of a pretraining, or any encoder as --config.encoder takes it (torchvision:PATH).
The folder then holds model.safetensors (or model.onnx), the JSON that the tool reads, and
README.md, a model card with the lines that load it.

torchvision  ResNets of 18 to 152 layers and DenseNets, for torchvision.models
timm         ViTs and ResNets, for timm.create_model
huggingface  ViTs (as Dinov2Model, CLIP's as CLIPModel with its text tower, else as
             CLIPVisionModelWithProjection) and ResNets, for transformers
onnx         every encoder, for onnxruntime and others; needs the package onnx
safetensors  every encoder and its text tower, for cxr_jax itself:
             --config.encoder=safetensors:FOLDER
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from cxr_jax import models, plugins, weights
from cxr_jax.data import seen_images
from cxr_jax.io import command_line
from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.exporters import Exported, describe


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the folder.

    Raises ValueError for an unknown format, a model that the tool does not have, a folder that is
    not empty, a package that a format needs and that is missing, and what weights.load refuses;
    FileNotFoundError.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cxr_jax.weights.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("encoder", metavar="WORKDIR", help="or SOURCE:PATH of a weights file")
    parser.add_argument("--format", required=True, help="see above")
    parser.add_argument("--out", type=Path, help="folder; default: WORKDIR/export/FORMAT")
    parser.add_argument("--scores", type=Path, help="a transfer's workdir, for the card's table")
    parser.add_argument("--licence", default="", help="what the card says about it")
    parser.add_argument(
        *("--with_seen_images", "--with_ledger"),  # the second as it was called before
        action="store_true",
        help=f"copy {seen_images.FILE} too: hashes of patients and images, by which others see "
        "which test images the encoder had seen",
    )
    args = parser.parse_args(command_line(arguments))
    export = plugins.find("cxr_jax.weights.exporters", args.format, "export", "format")
    source = str(Path(weights.parse_spec(args.encoder)[1]).expanduser())
    encoder = weights.load(args.encoder)
    if args.out is None and not Path(source).is_dir():
        raise ValueError(f"--out=FOLDER is needed: {source} is not a folder to write below")
    out = args.out or Path(source) / "export" / args.format
    check_empty(out)
    exported = export(encoder)
    if encoder.text and not exported.has_text:
        print(f"{args.format} has no place for its text tower; --format=safetensors keeps it")
    card = model_card(encoder, exported, source, args.scores, args.licence)
    if args.with_seen_images and not seen_images.find(Path(source)):
        raise FileNotFoundError(f"--with_seen_images: {source} holds no {seen_images.FILE}")
    with atomic_folder(out) as folder:
        write_folder(folder, exported, card)
        if args.with_seen_images:
            shutil.copy(seen_images.find(Path(source)), folder / seen_images.FILE)
    print(f"{args.format}: {out}; its README.md says how to load it")
    return out


def check_empty(out: Path) -> None:
    """Raises ValueError if there is something where --out shall be."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} is there and not empty; name another folder")


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to write into, which then becomes `out`: half an export would look whole.

    Replaces what an export that was killed left of it.
    """
    out = out.resolve()  # a link to a folder stays one
    if out.is_mount():  # nothing can take its place
        yield out
        return
    folder = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_folder(out: Path, exported: Exported, card: str) -> None:
    """Writes what was exported, and `card` as README.md, into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    if exported.tensors:
        # transformers asks for the framework by which a file was written. Not save_file, whose
        # files nobody but their owner may read.
        content = save(exported.tensors, metadata={"format": "pt"})
        (out / "model.safetensors").write_bytes(content)
    for name, content in exported.files.items():
        if not isinstance(content, bytes):
            content = (json.dumps(content, indent=2) + "\n").encode()
        (out / name).write_bytes(content)
    (out / "README.md").write_text(card)


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
    head = {
        "library_name": exported.library or "cxr_jax",
        "pipeline_tag": "image-feature-extraction",
    }
    head |= {"license": "other", "license_name": licence} if licence else {}
    head |= {"tags": ["chest-x-ray", "radiology", "self-supervised-learning"]}
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    parts = [
        f"---\n{yaml}\n---",
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
    path = workdir / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"--scores={workdir}: no metrics.json in it; name a transfer's workdir"
        )
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


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

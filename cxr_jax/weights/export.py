"""Takes an encoder away into other tools.

python -m cxr_jax.weights.export WORKDIR --format=FORMAT [--out=FOLDER]

WORKDIR is that of a pretraining, or any encoder as --config.encoder takes it (torchvision:PATH).
The folder then holds model.safetensors (or model.onnx), the JSON that the tool reads, and
README.md, a model card with the lines that load it.

torchvision  ResNets of 18 to 152 layers and DenseNets, for torchvision.models
timm         ViTs and ResNets, for timm.create_model
huggingface  ViTs (as Dinov2Model, CLIP's as CLIPVisionModelWithProjection) and ResNets, for
             transformers
onnx         every encoder, for onnxruntime and others; needs the package onnx
safetensors  every encoder, for cxr_jax itself: --config.encoder=safetensors:FOLDER
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.numpy import save

from cxr_jax import plugins, weights
from cxr_jax.data import seen_images
from cxr_jax.weights.exporters import Exported
from cxr_jax.weights.model_card import model_card


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the folder.

    Raises ValueError for an unknown format, a model that the tool does not have, a folder that is
    not empty, a package that a format needs and that is not here, and what weights.load refuses;
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
    parser.add_argument("--licence", default="", help="what the card says of it")
    parser.add_argument(
        "--with_ledger",
        action="store_true",
        help="copy exposure.parquet too: hashes of patients and images, by which others see which "
        "test images the encoder had seen",
    )
    args = parser.parse_args(arguments)
    export = plugins.find("cxr_jax.weights.exporters", args.format, "export", "format")
    source = str(Path(weights.parse_spec(args.encoder)[1]).expanduser())
    encoder = weights.load(args.encoder)
    if args.out is None and not Path(source).is_dir():
        raise ValueError(f"--out=FOLDER is needed: {source} is no folder to write below")
    out = args.out or Path(source) / "export" / args.format
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} is there and not empty; name another folder")
    exported = export(encoder)
    card = model_card(encoder, exported, source, args.scores, args.licence)
    if args.with_ledger and not (Path(source) / seen_images.FILE).is_file():
        raise FileNotFoundError(f"--with_ledger: {source} holds no {seen_images.FILE}")
    with _whole(out) as folder:
        write_folder(folder, exported, card)
        if args.with_ledger:
            shutil.copy(Path(source) / seen_images.FILE, folder)
    print(f"{args.format}: {out}; its README.md says how to load it")
    return out


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which then becomes `out`: a half export, or one without its ledger,
    would look like one. Replaces what an export that was killed left of it."""
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
    """What was exported, and `card` as README.md, in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    if exported.tensors:
        # transformers asks for the framework by which a file was written. Not save_file, whose
        # files nobody but their owner may read.
        content = save(exported.tensors, metadata={"format": "pt"})
        (out / "model.safetensors").write_bytes(content)
    for name, content in exported.files.items():
        is_json = not isinstance(content, bytes)
        text = (json.dumps(content, indent=2) + "\n").encode() if is_json else content
        (out / name).write_bytes(text)
    (out / "README.md").write_text(card)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

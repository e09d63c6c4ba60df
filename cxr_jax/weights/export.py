"""Exports an encoder for other tools.

python -m cxr_jax.weights.export WORKDIR --format=FORMAT [--out=FOLDER] [--push=OWNER/NAME]

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

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from cxr_jax import plugins, weights
from cxr_jax.data import seen_images
from cxr_jax.io import command_line, command_parser
from cxr_jax.io.text import in_words
from cxr_jax.weights.card import model_card
from cxr_jax.weights.exporters import Exported


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the folder.

    Raises ValueError for an unknown format, a model that the tool does not have, a folder that is
    not empty, a package that a format needs and that is missing, what weights.load refuses, and
    as push; FileNotFoundError.
    """
    parser = command_parser("python -m cxr_jax.weights.export", __doc__)
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
    parser.add_argument(
        "--push", default="", help="OWNER/NAME: upload it to the hub too, as a private model"
    )
    args = parser.parse_args(command_line(arguments))
    if args.push:
        _hub(args.push)
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
    if args.push:
        print(f"Uploaded: {push(out, args.push)}. Private; licence and visibility are yours to set")
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


def push(folder: Path, name: str) -> str:
    """Uploads an export to the hub as the model OWNER/NAME; returns its address.

    A new repository is private: to make it public is the owner's step. Raises ValueError without
    the package huggingface_hub, where the hub does not take it, and for a model that is public.
    """
    hub = _hub(name)
    keep = f"the export stays in {folder}, to be sent by `hf upload {name} {folder}`"
    try:
        api = hub.HfApi()
        address = str(api.create_repo(name, private=True, exist_ok=True))
        private = api.repo_info(name).private  # one that was there keeps its visibility
        if private:
            api.upload_folder(
                repo_id=name, folder_path=folder, commit_message="Encoder exported by cxr_jax"
            )
    except Exception as error:  # its client's, and of the network: many kinds
        raise ValueError(
            f"--push={name}: the hub does not take it ({error}). `hf auth login` logs in; {keep}"
        ) from error
    if not private:
        raise ValueError(
            f"--push={name}: that model is public already, so nothing was sent: hashes of seen "
            "images and a tokenizer's words may be in the export. Make it private in its settings "
            f"or name another; if all may read it, {keep}"
        )
    return address


def _hub(name: str) -> Any:
    """Checks --push=OWNER/NAME, and returns the package that does it."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"--push={name}: write OWNER/NAME")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError("--push needs huggingface_hub: pip install '.[hub]'") from error
    return huggingface_hub


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {in_words(error)}")

"""Encoders from workdirs and weights files: `load("torchvision_v1:/path/to/file.npz")`."""

import re
from pathlib import Path
from typing import Any

from cxr_jax.io.text import did_you_mean
from cxr_jax.weights import importers
from cxr_jax.weights.encoder import Encoder, features, random_encoder

__all__ = [
    "Encoder",
    "features",
    "load",
    "parse_spec",
    "random_encoder",
    "seen_before",
    "with_source",
]


def parse_spec(spec: str) -> tuple[str | None, str]:
    """Splits "<source>:<path>"; the source of a path alone is None.

    Only a name can be a source: "gs://bucket/x" and "/a:b.npz" are paths.

    >>> parse_spec("torchvision_v1:/path")
    ('torchvision_v1', '/path')
    """
    match = re.fullmatch(r"([A-Za-z_]\w*):(?!//)(.*)", spec, re.DOTALL)
    return (match[1], match[2]) if match else (None, spec)


def with_source(spec: str) -> str:
    """Returns "<source>:<path>" also for a path alone: the source as which `load` reads it.

    >>> with_source("/weights/resnet50.pth")
    'torchvision:/weights/resnet50.pth'
    """
    source, path = parse_spec(spec)
    folder = Path(path).expanduser()
    if source is None:
        source = "workdir" if folder.is_dir() else "torchvision"
        source = "safetensors" if (folder / "cxr_jax.json").is_file() else source
    return f"{source}:{path}"


def load(spec: str) -> Encoder:
    """Reads the encoder at `spec`: "<source>:<path>", "hf:<owner>/<name>", or a path alone.

    The sources are those that the files in weights/importers name. A folder alone is read as source
    "workdir", or as "safetensors" if we exported it; a file alone as source "torchvision".

    Raises ValueError for an unknown source (naming those there are) or a file that does not fit;
    FileNotFoundError.

    >>> import tempfile
    >>> from cxr_jax.weights import export
    >>> from cxr_jax.weights.exporters import safetensors
    >>> encoder = random_encoder({"name": "resnet", "variant": "small"}, image_size=32, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export.write_folder(Path(folder), safetensors.export(encoder), card="")
    ...     load(f"safetensors:{folder}").model
    {'name': 'resnet', 'variant': 'small'}
    """
    if spec == "random":
        raise ValueError(
            "'random' is not an encoder by itself: a transfer gives it the shape of the encoder "
            "beside it, or of config.model. In Python: cxr_jax.weights.random_encoder("
            "{'name': 'resnet', 'variant': '50'}, image_size=224, seed=0), and "
            "cxr_jax.weights.encoder.ImageEncoder of that"
        )
    source, path = parse_spec(with_source(spec))
    path = str(Path(path).expanduser())
    known = importers.sources()
    if source not in known:
        raise ValueError(
            f"no weights source {source!r}.{did_you_mean(source, known)} There are "
            f"{', '.join(sorted(known))}"
        )
    if source != "hf" and not Path(path).exists():  # the hub's names are no paths
        hint = did_you_mean(spec, ["random"])
        if "+" in path:
            hint = (
                " Pretrainings are joined by '+' in configs/transfer.py and configs/benchmark.py; "
                "elsewhere their mean is one encoder: python -m cxr_jax.weights.average."
            )
        raise FileNotFoundError(
            f"there is no workdir or weights file {path} (from {Path.cwd()})."
            f"{hint} Nothing is downloaded: weights of others are a file that you have, such as "
            "torchvision:/weights/resnet50.pth (docs/weights.md)"
        )
    return known[source](path)


def seen_before(spec: str) -> tuple[Any, str]:
    """Returns the images that the encoder `spec` had seen, None if it kept no list, and a name.

    The images are ImageHashes. The name is that of an encoder whose images are unknown, this one or
    the one that it started from; "" for none.
    """
    from cxr_jax.data import seen_images  # TFDS: seconds

    if not spec:
        return None, ""
    source, path = parse_spec(spec)
    folder = Path(path).expanduser()
    if source in (None, "workdir", "safetensors") and seen_images.find(folder):
        return seen_images.read(folder), seen_images.read_unknown_start(folder)
    if source == "hf":
        return None, spec
    return None, f"{source}:{folder.name}" if source else folder.name  # no paths: lists travel

"""DINOv2's, RAD-DINO's and timm's encoders by their name on Hugging Face's hub: `hf:OWNER/NAME`.

They are looked up in the hub's cache on this machine. What is not there is fetched if the package
huggingface_hub is installed and HF_HUB_OFFLINE is not set.
"""

import importlib.util
import os
import re
from pathlib import Path

from cxr_jax.io.json import read_json
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers import dinov2, timm

_DINOV2 = ("dinov2", "dinov2_with_registers")


def load(name: str) -> Encoder:
    """Reads the encoder called OWNER/NAME, with the mean, deviation and size of its JSON files.

    Raises ValueError for another spelling, a model of another kind, or what its source refuses;
    FileNotFoundError, with the command that fetches it, where the cache lacks it.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"hf:{name} is not a name of the hub; write hf:OWNER/NAME")
    folder = _cached(name) or _fetched(name)
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if "pretrained_cfg" not in config and kind not in _DINOV2:
        raise ValueError(f"hf:{name} is of kind {kind!r}; read are {', '.join(_DINOV2)} and timm's")
    read = timm.load if "pretrained_cfg" in config else dinov2.load
    return read(folder)._replace(name=name.partition("/")[2])


def _cached(name: str) -> Path | None:
    """Returns the snapshot of its main branch, if both of its files are there."""
    repository = _cache() / f"models--{name.replace('/', '--')}"
    main = repository / "refs/main"
    if not main.is_file():
        return None
    folder = repository / "snapshots" / main.read_text().strip()
    whole = all((folder / file).is_file() for file in ("config.json", "model.safetensors"))
    return folder if whole else None


def _cache() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _fetched(name: str) -> Path:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline or importlib.util.find_spec("huggingface_hub") is None:
        raise FileNotFoundError(
            f"{name} is not in the hub's cache, {_cache()}; fetch it on a machine with network: "
            f"pip install huggingface_hub && hf download {name}"
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "model.safetensors"]))

"""Encoders as Hugging Face's transformers and its hub have them, with the facts in their JSON.

huggingface  a folder with config.json: DINOv2 (with registers or without), DINOv3 (a ViT or a
             ConvNeXt), CLIP (both towers), the image tower of SigLIP, a ResNet; timm's too
hf           the same by its name on the hub, `hf:OWNER/NAME`: looked up in the hub's cache on this
             machine; what is not there is fetched if the package huggingface_hub is installed and
             HF_HUB_OFFLINE is not set

Mean, deviation, size and how an image becomes a square are those of preprocessor_config.json, but
an image is brought to the size that is read at once: transformers' DINOv2 brings its shorter side
to 256 and cuts 224 out, and with them the lung bases off. What either file says that is not done
here is refused by its name.
"""

import importlib.util
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import WEIGHTS, find_weights, read_facts
from cxr_jax.weights.convert import errors_naming, strip_prefix, without
from cxr_jax.weights.encoder import Encoder
from cxr_jax.weights.importers import dinos, siglip, timm
from cxr_jax.weights.importers._cnn import IMAGENET, cnn_encoder
from cxr_jax.weights.importers._towers import read_clip
from cxr_jax.weights.importers._transformers import name_of, read_folder, vit_of
from cxr_jax.weights.importers._vit import CLIP_BLOCK, Layout
from cxr_jax.weights.importers.vits import CLIP_PIXELS

CLIP = Layout(
    patches="vision_model.embeddings.patch_embedding",
    positions="vision_model.embeddings.position_embedding.weight",
    cls="vision_model.embeddings.class_embedding",
    block="vision_model.encoder.layers.{}.",
    outer={
        "norm_pre": "vision_model.pre_layrnorm",  # spelt so
        "norm": "vision_model.post_layernorm",
        "project": "visual_projection",
    },
    inner=CLIP_BLOCK,
    flat=True,
)


def load_clip(path: str | Path) -> Encoder:
    """Reads the image tower in a folder; beside it the text's, if it is there, when asked for."""
    file, arrays, config, seen = read_folder(path, 224, CLIP_PIXELS)
    text = None
    if "text_projection.weight" in arrays:  # what equals a default is not in config.json
        text = partial(read_clip, file, {"num_attention_heads": 8} | config.get("text_config", {}))
    with errors_naming(file):
        others = ("text_model.", "text_projection.", "logit_scale", "visual_projection.")
        below = strip_prefix(arrays, ("vision_model.",), others)
        arrays = {f"vision_model.{key}": array for key, array in below.items()} | {
            key: array for key, array in arrays.items() if key.startswith("visual_projection.")
        }
        arrays = without(arrays, "vision_model.embeddings.position_ids")
        fields: dict[str, Any] = {"pre_norm": True}
        if (key := "visual_projection.weight") in arrays:
            fields["projection"] = len(arrays[key])
        config = config.get("vision_config", config)
        encoder = vit_of(path, arrays, CLIP, config, seen, "quick_gelu", 1e-5, fields)
        return encoder._replace(text=text)


def load_resnet(path: str | Path) -> Encoder:
    """Reads the encoder in a folder; the classifier is passed over."""
    file, arrays, config, seen = read_folder(path, 224, IMAGENET)
    with errors_naming(file):
        if config.get("hidden_act", "relu") != "relu":
            raise ValueError(f"hidden_act {plain(repr(config['hidden_act']))} of a ResNet")
        arrays = strip_prefix(arrays, ("resnet.", ""), ("classifier.",))
        arrays = {torchvision_key(k): a for k, a in without(arrays, "classifier.").items()}
    v1 = {"stride_in_1x1": True} if config.get("downsample_in_bottleneck") else {}
    size, fit, mean, std = seen
    return cnn_encoder(file, arrays, size, mean, std, fit=fit, **v1)._replace(name=name_of(path))


def torchvision_key(key: str) -> str:
    """Names what transformers' ResNetModel calls `key` as torchvision does.

    >>> torchvision_key("encoder.stages.0.layers.1.layer.2.normalization.bias")
    'layer1.1.bn3.bias'
    """
    kinds = {"convolution": "conv", "normalization": "bn"}
    places = {"convolution": "downsample.0", "normalization": "downsample.1"}
    key = re.sub(r"encoder\.stages\.(\d+)\.layers", lambda m: f"layer{int(m[1]) + 1}", key)
    key = re.sub(r"^embedder\.embedder\.(\w+)", lambda m: f"{kinds.get(m[1])}1", key)
    key = re.sub(r"shortcut\.(\w+)", lambda m: places.get(m[1], m[0]), key)
    return re.sub(r"\.layer\.(\d+)\.(\w+)", lambda m: f".{kinds.get(m[2])}{int(m[1]) + 1}", key)


def load_folder(path: str | Path) -> Encoder:
    """Reads the encoder in a folder, as the model_type (or timm's fields) of its config.json say.

    Raises ValueError for a model of another kind, or what its source refuses.
    """
    config = read_facts(find_weights(path), "config.json")
    kind = "timm" if "pretrained_cfg" in config else config.get("model_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"{path}: config.json is of kind {plain(repr(kind))}; read are {', '.join(_KINDS)}"
        )
    return _KINDS[kind](path)


def load_hub(name: str) -> Encoder:
    """Reads the encoder called OWNER/NAME as `load_folder` does.

    Raises ValueError for another spelling too; FileNotFoundError, with the command that fetches it,
    where the cache lacks it.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"hf:{name} is not a name of the hub; write hf:OWNER/NAME")
    with errors_naming(f"hf:{name}"):
        return load_folder(_cached(name) or _fetched(name))._replace(name=name.partition("/")[2])


def _cached(name: str) -> Path | None:
    """Returns the snapshot of its main branch, if both of its files are there."""
    repository = _cache() / f"models--{name.replace('/', '--')}"
    main = repository / "refs/main"
    if not main.is_file():
        return None
    folder = repository / "snapshots" / main.read_text().strip()
    whole = (folder / "config.json").is_file() and find_weights(folder).is_file()
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

    words = ("vocab.txt", "merges.txt", "spiece.model")  # of tokenizers, beside tokenizer.json
    return Path(snapshot_download(name, allow_patterns=["*.json", *words, *WEIGHTS]))


_KINDS = {
    "timm": timm.load,
    "dinov2": dinos.load_dinov2,
    "dinov2_with_registers": dinos.load_dinov2,
    "dinov3_vit": dinos.load_dinov3,
    "dinov3_convnext": dinos.load_dinov3,
    "siglip": siglip.load,
    "siglip_vision_model": siglip.load,
    "clip": load_clip,
    "clip_vision_model": load_clip,
    "resnet": load_resnet,
}
SOURCES = {"huggingface": load_folder, "hf": load_hub}

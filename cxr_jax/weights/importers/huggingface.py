"""Encoders as Hugging Face's transformers and its hub have them, with the facts in their JSON.

huggingface  a folder with config.json: DINOv2 (with registers or without), CLIP (both towers),
             a ResNet; timm's too
hf           the same by its name on the hub, `hf:OWNER/NAME`: looked up in the hub's cache on this
             machine; what is not there is fetched if the package huggingface_hub is installed and
             HF_HUB_OFFLINE is not set
dinov2       DINOv2 (arXiv:2304.07193): a folder, or a file alone: a ViT of `gelu`, for 224 px
             with ImageNet's mean and deviation. Features are the class token behind the last norm
rad_dino     RAD-DINO (arXiv:2401.10815): as `dinov2`; a file alone is for 518 px with the mean and
             deviation of its preprocessing

Mean, deviation, size and how an image becomes a square are those of preprocessor_config.json, but
an image is brought to the size that is read at once: transformers' DINOv2 brings its shorter side
to 256 and cuts 224 out, and with them the lung bases off. What either file says that is not done
here is refused by its name.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import WEIGHTS, find_weights, read_arrays, read_facts
from cxr_jax.weights.convert import errors_naming, refuse_prefix, strip_prefix, without
from cxr_jax.weights.encoder import Encoder, check_pixels
from cxr_jax.weights.importers import timm
from cxr_jax.weights.importers._cnn import IMAGENET, cnn_encoder
from cxr_jax.weights.importers._text import read_clip
from cxr_jax.weights.importers._vit import Layout, query_key_value, read_vit, size_facts
from cxr_jax.weights.importers.vits import CLIP_PIXELS

DINOV2 = Layout(
    patches="embeddings.patch_embeddings.projection",
    positions="embeddings.position_embeddings",
    cls="embeddings.cls_token",
    block="encoder.layer.{}.",
    outer={"norm": "layernorm"},
    inner={
        "norm1": "norm1",
        **query_key_value("attention.attention.{part}"),
        "proj": "attention.output.dense",
        "scale1": "layer_scale1.lambda1",
        "norm2": "norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "scale2": "layer_scale2.lambda1",
    },
    registers=("embeddings.register_tokens",),
)
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
    inner={
        "norm1": "layer_norm1",
        **query_key_value("self_attn.{part}_proj", "qkv"),
        "proj": "self_attn.out_proj",
        "norm2": "layer_norm2",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
    flat=True,
)
# By transformers' name; ours is another where it says what the formula is.
_ACTIVATIONS = {
    **{"gelu": "gelu", "quick_gelu": "quick_gelu"},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
}
# The values that are read here, by field of the JSON files.
_ONLY = {
    **{"use_swiglu_ffn": (False,), "qkv_bias": (True,), "downsample_in_first_stage": (False,)},
    **{"do_resize": (True,), "do_normalize": (True,), "do_rescale": (True,)},
    "do_pad": (False, None),
}


def load_dinov2(
    path: str | Path,
    image_size: int = 224,
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
) -> Encoder:
    """Reads the encoder in a folder or a file; `image_size`, `pixels`: of files without JSON.

    The mask token, which stands for patches hidden in training, is passed over.
    """
    file, arrays, config, seen = _read(path, image_size, pixels)
    with errors_naming(file):
        refuse_prefix(arrays, f"{DINOV2.patches}.weight", DINOV2.cls)
        arrays = without(arrays, "embeddings.mask_token")
        fields: dict[str, Any] = {"layer_scale": 1.0}
        if DINOV2.registers[0] in arrays:
            fields["antialias"] = True
        return _vit(path, arrays, DINOV2, config, seen, "gelu", 1e-6, fields)


def load_clip(path: str | Path) -> Encoder:
    """Reads the image tower in a folder; beside it the text's, if it is there, when asked for."""
    file, arrays, config, seen = _read(path, 224, CLIP_PIXELS)
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
        encoder = _vit(path, arrays, CLIP, config, seen, "quick_gelu", 1e-5, fields)
        return encoder._replace(text=text)


def load_resnet(path: str | Path) -> Encoder:
    """Reads the encoder in a folder; the classifier is passed over."""
    file, arrays, config, seen = _read(path, 224, IMAGENET)
    with errors_naming(file):
        if config.get("hidden_act", "relu") != "relu":
            raise ValueError(f"hidden_act {plain(repr(config['hidden_act']))} of a ResNet")
        arrays = strip_prefix(arrays, ("resnet.", ""), ("classifier.",))
        arrays = {torchvision_key(k): a for k, a in without(arrays, "classifier.").items()}
    v1 = {"stride_in_1x1": True} if config.get("downsample_in_bottleneck") else {}
    size, fit, mean, std = seen
    return cnn_encoder(file, arrays, size, mean, std, fit=fit, **v1)._replace(name=_name(path))


def _read(
    path: str | Path, image_size: int, pixels: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[Path, dict[str, np.ndarray], dict[str, Any], tuple]:
    """Returns the file, its arrays, config.json, and (size, fit, mean, deviation)."""
    file = find_weights(path)
    config, facts = (read_facts(file, name) for name in ("config.json", "preprocessor_config.json"))
    seen = (image_size, "crop", *pixels)
    with errors_naming(file.parent / "config.json"):
        _check(config)
        _check(config.get("vision_config", {}))
    if facts:
        with errors_naming(file.parent / "preprocessor_config.json"):
            _check(facts)
            seen = _preprocessing(facts)
    return file, read_arrays(file), config, seen


def _check(facts: Any) -> None:
    if not isinstance(facts, dict):
        raise ValueError("it is no JSON of transformers")
    for field, known in _ONLY.items():
        if field in facts and facts[field] not in known:
            found = plain(repr(facts[field]))
            raise ValueError(f"{field} is {found}; read is {' or '.join(map(repr, known))}")


def _vit(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    config: Mapping[str, Any],
    seen: tuple,
    activation: str,
    epsilon: float,
    fields: dict[str, Any],
) -> Encoder:
    """Reads a ViT by config.json, {} for none; `activation` and `epsilon` are its defaults."""
    size, fit, mean, std = seen
    name, epsilon = config.get("hidden_act", activation), config.get("layer_norm_eps", epsilon)
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        found, known = plain(repr(name)), ", ".join(_ACTIVATIONS)
        raise ValueError(f"config.json: hidden_act is {found}; read are {known}")
    if not (isinstance(epsilon, float) and 0 < epsilon < 1):
        raise ValueError(f"config.json: layer_norm_eps is {plain(repr(epsilon))}")
    activation = _ACTIVATIONS[name]
    fields |= {"activation": activation} if activation != "gelu" else {}
    fields |= {"epsilon": epsilon} if epsilon != 1e-6 else {}
    # Its defaults, whatever the width: it leaves out of config.json what equals them.
    usual = {"num_attention_heads": 12, "num_hidden_layers": 12} if "model_type" in config else {}
    sizes = size_facts(usual | dict(config))
    pixels = {"mean": tuple(mean), "std": tuple(std)}
    encoder = read_vit(_name(path), arrays, layout, **sizes, fit=fit, **fields, **pixels)
    return encoder._replace(image_size=size)


def _preprocessing(facts: dict[str, Any]) -> tuple[int, str, list[float], list[float]]:
    """Returns the size, how an image becomes a square, mean and deviation. Raises ValueError."""
    cropped = facts.get("do_center_crop", "crop_size" in facts or "crop_pct" in facts)
    where = "crop_size" if cropped and "crop_size" in facts else "size"
    sides, names = facts.get(where), ("height", "width", *(("shortest_edge",) if cropped else ()))
    sides = [sides[n] for n in names if n in sides] if isinstance(sides, dict) else [sides]
    missing = [key for key in ("image_mean", "image_std") if key not in facts]
    if missing or not sides or sides != [sides[0]] * len(sides) or not isinstance(sides[0], int):
        raise ValueError(f"{', '.join(missing) or where} is missing or of another kind")
    try:
        mean, std = ([float(x) for x in facts[key]] for key in ("image_mean", "image_std"))
        factor = float(facts.get("rescale_factor", 1 / 255))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("image_mean, image_std or rescale_factor is not of numbers") from error
    if abs(255 * factor - 1) > 1e-3:
        raise ValueError(f"rescale_factor is {factor:g}; read is 1/255")
    check_pixels(mean, std, sides[0])
    return sides[0], "crop" if cropped else "squash", mean, std


def _name(path: str | Path) -> str:
    return Path(path).name if Path(path).is_dir() else Path(path).stem


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

    return Path(snapshot_download(name, allow_patterns=["*.json", *WEIGHTS]))


_KINDS = {
    "timm": timm.load,
    "dinov2": load_dinov2,
    "dinov2_with_registers": load_dinov2,
    "clip": load_clip,
    "clip_vision_model": load_clip,
    "resnet": load_resnet,
}
SOURCES = {
    "huggingface": load_folder,
    "hf": load_hub,
    "dinov2": load_dinov2,
    "rad_dino": partial(load_dinov2, image_size=518, pixels=((0.5307,) * 3, (0.2583,) * 3)),
}

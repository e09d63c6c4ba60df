"""A folder as Hugging Face's transformers saves it: its arrays, and what its JSON files say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.weights.arrays import find_weights, read_arrays, read_facts
from cxr_jax.weights.convert import errors_naming
from cxr_jax.weights.encoder import Encoder, check_pixels
from cxr_jax.weights.importers._vit import Layout, read_vit, size_facts

# By transformers' name; ours is another where it says what the formula is.
_ACTIVATIONS = {
    **{"gelu": "gelu", "quick_gelu": "quick_gelu"},
    **{"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
}
# The values that are read here, by field of the JSON files.
_ONLY = {
    **{"qkv_bias": (True,), "downsample_in_first_stage": (False,)},
    "vision_use_head": (True,),
    # DINOv3's
    **{"query_bias": (True,), "key_bias": (False,), "value_bias": (True,), "proj_bias": (True,)},
    **{"mlp_bias": (True,), "rope_theta": (100, 100.0)},
    **{"do_resize": (True,), "do_normalize": (True,), "do_rescale": (True,)},
    "do_pad": (False, None),
}


def read_folder(
    path: str | Path,
    image_size: int,
    pixels: tuple[tuple[float, ...], tuple[float, ...]],
    fit: str = "crop",
) -> tuple[Path, dict[str, np.ndarray], dict[str, Any], tuple]:
    """Returns the file, its arrays, config.json, and (size, fit, mean, deviation).

    These are preprocessor_config.json's or, of files without it, those given.
    """
    file = find_weights(path)
    config, facts = (read_facts(file, name) for name in ("config.json", "preprocessor_config.json"))
    seen = (image_size, fit, *pixels)
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


def vit_of(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    config: Mapping[str, Any],
    seen: tuple,
    activation: str,
    epsilon: float,
    fields: dict[str, Any],
    heads: int = 12,
) -> Encoder:
    """Reads a ViT by config.json, {} for none.

    `activation`, `epsilon` and `heads` are the defaults of its class; "silu" is of a gated MLP
    alone. A size of 0 is that of its positions.
    """
    size, fit, mean, std = seen
    name, epsilon = config.get("hidden_act", activation), config.get("layer_norm_eps", epsilon)
    read = {"silu": "swiglu"} if activation == "silu" else _ACTIVATIONS
    if not isinstance(name, str) or name not in read:
        found, known = plain(repr(name)), ", ".join(read)
        raise ValueError(f"config.json: hidden_act is {found}; read are {known}")
    if not (isinstance(epsilon, float) and 0 < epsilon < 1):
        raise ValueError(f"config.json: layer_norm_eps is {plain(repr(epsilon))}")
    activation = read[name]
    fields |= {"activation": activation} if activation != "gelu" else {}
    fields |= {"epsilon": epsilon} if epsilon != 1e-6 else {}
    # Its defaults, whatever the width: it leaves out of config.json what equals them.
    usual = (
        {"num_attention_heads": heads, "num_hidden_layers": 12} if "model_type" in config else {}
    )
    sizes = size_facts(usual | dict(config))
    fields |= {"mean": tuple(mean), "std": tuple(std)}
    encoder = read_vit(name_of(path), arrays, layout, fit=fit, **sizes | fields)
    return encoder._replace(image_size=size or encoder.image_size)


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


def name_of(path: str | Path) -> str:
    """Returns what an encoder in this folder or file is called."""
    return Path(path).name if Path(path).is_dir() else Path(path).stem

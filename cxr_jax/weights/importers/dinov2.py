"""DINOv2 (arXiv:2304.07193), with or without registers, in the layout of transformers.

Mean, deviation and size are those of `preprocessor_config.json` beside the weights, as the hub has
it; without that file ImageNet's at 224 px. Features are the class token behind the last norm. The
position embeddings, learnt for 518 px, are resampled as transformers does it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_jax.weights._layouts.cnn import IMAGENET_MEAN, IMAGENET_STD
from cxr_jax.weights._layouts.vit import Layout, num_rows, query_key_value, read_vit, rows
from cxr_jax.weights.arrays import read_arrays, read_hub_folder
from cxr_jax.weights.convert import Source, errors_naming, refuse_prefix, without
from cxr_jax.weights.encoder import Encoder, check_pixels

_REGISTERS = "embeddings.register_tokens"
_LAYOUT = Layout(
    patches="embeddings.patch_embeddings.projection",
    positions="embeddings.position_embeddings",
    cls="embeddings.cls_token",
    block="encoder.layer.{}.",
    outer={"register_tokens": Source((_REGISTERS,), rows), "norm": "layernorm"},
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
)


def load(path: str | Path) -> Encoder:
    """Reads the encoder in a folder of the hub, or in its model.safetensors.

    The mask token, which stands for patches hidden in training, is passed over.
    """
    return load_dinov2(path, 224, IMAGENET_MEAN, IMAGENET_STD)


def load_dinov2(
    path: str | Path, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Encoder:
    """Reads the encoder as `load` does, with facts for files without preprocessor_config.json."""
    file, facts = read_hub_folder(path, "preprocessor_config.json")
    arrays = read_arrays(file)
    if facts:
        with errors_naming(file.parent / "preprocessor_config.json"):
            image_size, mean, std = _facts(facts)
    with errors_naming(file):
        refuse_prefix(arrays, f"{_LAYOUT.patches}.weight", "embeddings.cls_token")
        arrays = without(arrays, "embeddings.mask_token")
        fields: dict[str, Any] = {"layer_scale": 1.0, "mean": tuple(mean), "std": tuple(std)}
        if _REGISTERS in arrays:
            fields = {"registers": num_rows(arrays, _REGISTERS), "antialias": True} | fields
        name = Path(path).name if Path(path).is_dir() else file.stem
        return read_vit(name, arrays, _LAYOUT, **fields)._replace(image_size=image_size)


def _facts(facts: dict) -> tuple[int, list[float], list[float]]:
    crop = facts.get("crop_size", {})
    size = crop.get("height") if isinstance(crop, dict) else crop
    missing = [key for key in ("image_mean", "image_std") if key not in facts]
    if missing or not isinstance(size, int):
        raise ValueError(f"{', '.join(missing) or 'crop_size'} is missing or of another kind")
    try:
        mean, std = ([float(x) for x in facts[key]] for key in ("image_mean", "image_std"))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("image_mean or image_std is not a list of numbers") from error
    check_pixels(mean, std, size)
    return size, mean, std

"""ViTs under the key names of several publishers."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cxr_jax.models.vit import VARIANTS
from cxr_jax.weights.convert import Source, add_alike, fill

# By variable ("cls", "qkv.kernel") its source or key; by layer ("norm1") how its keys begin. In
# those of blocks, {} is the block's number.
Names = Mapping[str, str | Source]


def shape_of(
    arrays: Mapping[str, np.ndarray], patches: str, positions: str, block: str
) -> dict[str, Any]:
    """Reads {"variant", "patch", "image_size"} of a ViT's config from its arrays.

    `patches` and `positions` are the keys of the patch embedding [d c p p] and of the position
    embedding [1 n d] or [n d]; `block` a pattern with the block's number as its group.

    Raises ValueError where one of the two is missing, empty or of another rank, blocks are missing,
    or patches do not fill a square.
    """
    for key, rank in ((patches, (4,)), (positions, (2, 3))):
        if key not in arrays or arrays[key].ndim not in rank or not arrays[key].size:
            raise ValueError(f"not this kind of ViT: no {key} of {rank[-1]} dimensions")
    numbers = {int(m[1]) for m in (re.match(block, key) for key in arrays) if m}
    width, _, patch, _ = arrays[patches].shape
    count = arrays[positions].shape[-2]
    grid = int(count**0.5)
    if count not in (grid**2, grid**2 + 1):
        raise ValueError(f"{positions} has {count} places: not a square, nor one more")
    return {
        "variant": _variant(width, numbers),
        "patch": patch,
        "image_size": patch * grid,
    }


def _variant(width: int, numbers: set[int]) -> str:
    depths = {known: (name, depth) for name, (known, depth) in VARIANTS.items()}
    # A ViT-S of six blocks is half a checkpoint, not a variant.
    name, depth = depths.get(width, ("", len(numbers)))
    if not numbers or numbers != set(range(depth)):
        missing = sorted(set(range(depth or 1)) - numbers)
        more = sorted(numbers - set(range(depth)))
        raise ValueError(
            f"does not fit a ViT{'-' + name if name else ''} of width {width} and {depth} blocks: "
            f"blocks missing: {missing or 'none'}; too many: {more or 'none'}"
        )
    return name or f"{width}x{depth}"


def read_vit(
    model: Mapping[str, Any], arrays: Mapping[str, np.ndarray], outer: Names, block: Names
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (config, variables) of the ViT `model`, filled from `arrays`.

    `outer` and `block` say where its variables are, those of blocks apart: "norm1":
    "blocks.{}.norm1" reads the first block's scale from `blocks.0.norm1.weight`.

    Raises ValueError as `fill`.
    """
    model = {"name": "vit", **model}

    def source_of(path: tuple[str, ...]) -> Source:
        number, names, rest = "", outer, path[1:]
        if rest[0].startswith("block_"):
            number, names, rest = rest[0].removeprefix("block_"), block, rest[1:]
        name = ".".join(rest)
        if name in names:
            source = names[name]
            source = Source((source,)) if isinstance(source, str) else source
        else:
            layer, leaf = rest
            ending = "bias" if leaf == "bias" else "weight"
            source = Source((f"{names[layer]}.{ending}",))
        return source._replace(keys=tuple(key.format(number) for key in source.keys))

    return model, fill(model, arrays, source_of, f"ViT-{model['variant']}/{model['patch']}")


def tokens(cls: str | None, positions: str, has_place: bool) -> dict[str, Source]:
    """Returns the sources of "cls" and "positions".

    `has_place`: the first position is the class token's, to which it is added.
    """
    if cls is None:
        return {"positions": Source((positions,), rows)}
    if not has_place:
        return {"cls": Source((cls,), np.ravel), "positions": Source((positions,), rows)}
    return {
        "cls": Source(
            (cls, positions), lambda token, place: add_alike(token.ravel(), rows(place)[0])
        ),
        "positions": Source((positions,), lambda place: rows(place)[1:]),
    }


def num_rows(arrays: Mapping[str, np.ndarray], key: str) -> int:
    """Returns n of the array [1 n d] or [n d] called `key`. Raises ValueError for another rank."""
    if arrays[key].ndim not in (2, 3):
        raise ValueError(f"{key} of shape {arrays[key].shape} where [1 n d] is expected")
    return arrays[key].shape[-2]


def rows(array: np.ndarray) -> np.ndarray:
    """Returns [n d] of an array [1 n d] or [n d]."""
    return array[0] if array.ndim == 3 else array


def stacked(*keys: str) -> Source:
    """Returns a source that stacks several arrays, as those of query, key and value."""
    return Source(keys, lambda *parts: np.concatenate(parts))


def query_key_value(layer: str) -> dict[str, Source]:
    """Returns the sources of "qkv" in three layers, query, key and value for {part}."""
    layers = [layer.replace("{part}", part) for part in ("query", "key", "value")]
    return {
        "qkv.kernel": stacked(*(f"{name}.weight" for name in layers)),
        "qkv.bias": stacked(*(f"{name}.bias" for name in layers)),
    }

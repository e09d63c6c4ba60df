"""ViTs under the key names of several publishers."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cxr_jax.models.vit import VARIANTS
from cxr_jax.weights.convert import Source, add_alike, fill
from cxr_jax.weights.encoder import Encoder


class Layout(NamedTuple):
    """The key names of a publisher's ViTs.

    Attributes:
      patches: how the keys of the patch embedding begin; its weight is [d c p p].
      positions: the position embeddings, [1 n d] or [n d].
      cls: the class token; None: there is none.
      block: how the keys of a block begin, with {} for its number.
      outer, inner: by variable ("qkv.kernel") its source or key; by layer ("norm1") how its keys
        begin. Those of `inner` are below `block`.
      cls_has_place: whether the first position is the class token's, to which it is added; None:
        where there is one more than patches.
    """

    patches: str
    positions: str
    cls: str | None
    block: str
    outer: Mapping[str, str | Source]
    inner: Mapping[str, str | Source]
    cls_has_place: bool | None = True


def read_vit(name: str, arrays: Mapping[str, np.ndarray], layout: Layout, **fields: Any) -> Encoder:
    """Returns the ViT in `arrays`, for images of the size of its position embeddings.

    `fields` are those of the model's config beside variant, patch and image_size.

    Raises ValueError as `fill`, and where one of the two embeddings is missing, empty or of another
    rank, blocks are missing, or patches do not fill a square.
    """
    patches, positions = f"{layout.patches}.weight", layout.positions
    for key, rank in ((patches, (4,)), (positions, (2, 3))):
        if key not in arrays or arrays[key].ndim not in rank or not arrays[key].size:
            raise ValueError(f"not this kind of ViT: no {key} of {rank[-1]} dimensions")
    width, _, patch, _ = arrays[patches].shape
    count = arrays[positions].shape[-2]
    grid = int(count**0.5)
    if count not in (grid**2, grid**2 + 1):
        raise ValueError(f"{positions} has {count} places: not a square, nor one more")
    block = layout.block.format(r"(\d+)")
    variant = _variant(width, {int(m[1]) for m in (re.match(block, key) for key in arrays) if m})
    size = patch * grid
    model = {"name": "vit", "variant": variant, "patch": patch, "image_size": size, **fields}
    has_place = count > grid**2 if layout.cls_has_place is None else layout.cls_has_place
    outer = {"patch_embed": layout.patches, **_tokens(layout, has_place), **layout.outer}

    def source_of(path: tuple[str, ...]) -> Source:
        below, names, rest = "", outer, path[1:]
        if rest[0].startswith("block_"):
            below = layout.block.format(rest[0].removeprefix("block_"))
            names, rest = layout.inner, rest[1:]
        source = names.get(".".join(rest))
        if source is None:
            layer, leaf = rest
            source = f"{names[layer]}.{'bias' if leaf == 'bias' else 'weight'}"
        source = Source((source,)) if isinstance(source, str) else source
        return source._replace(keys=tuple(below + key for key in source.keys))

    variables = fill(model, arrays, source_of, f"ViT-{variant}/{patch}")
    return Encoder(name, model, variables, size)


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


def _tokens(layout: Layout, has_place: bool) -> dict[str, Source]:
    cls, positions = layout.cls, layout.positions
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

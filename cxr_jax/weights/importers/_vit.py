"""ViTs under the key names of several publishers, read and written by one table of names."""

import re
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, NamedTuple

import jax
import numpy as np

from cxr_jax.io.text import plain
from cxr_jax.models.vit import VARIANTS
from cxr_jax.weights.convert import Source, add_alike, fill, torch_array
from cxr_jax.weights.encoder import Encoder

# Heads that published ViTs have, by width and number of blocks; 768x12 without a class token (16 in
# timm's gap_224, 12 in others) and 1536x40 (16 or 24) are ambiguous.
HEADS = {
    (width, depth): width // 64
    for width, depth in (
        *((192, 12), (256, 10), (256, 14), (320, 14), (384, 12), (384, 36), (512, 12), (512, 20)),
        *((640, 12), (768, 12), (832, 21), (896, 12), (896, 18), (1024, 24)),
    )
} | {(width, depth): 16 for width, depth in ((1152, 27), (1280, 32), (1408, 40), (1664, 48))}


class Layout(NamedTuple):
    """The key names of a publisher's ViTs.

    Attributes:
      patches: how the keys of the patch embedding begin; its weight is [d c p p].
      positions: the position embeddings, [1 n d] or [n d]; "": it has none, but rotary ones.
      cls: the class token, [1 1 d] or [d].
      block: how the keys of a block begin, with {} for its number.
      outer, inner: by variable ("qkv.kernel") its source or key; by layer ("norm1") how its keys
        begin. Those of `inner` are below `block`.
      registers: further tokens, [1 n d], in their order; those that are not there are left out.
      has_place: whether the first position is the class token's, to which it is added; None: where
        there are more than patches, the first are of as many tokens.
      flat: whether positions and class token have no leading axes of 1.
    """

    patches: str
    positions: str
    cls: str
    block: str
    outer: Mapping[str, str | Source]
    inner: Mapping[str, str | Source]
    registers: tuple[str, ...] = ()
    has_place: bool | None = True
    flat: bool = False

    def source(self, path: tuple[str, ...]) -> Source:
        """Returns the source of a variable of no token and no position."""
        below, names = "", {"patch_embed": self.patches, **self.outer}
        if path[0].startswith("block_"):
            below, names = self.block.format(path[0].removeprefix("block_")), self.inner
            path = path[1:]
        source = names.get(".".join(path))
        if source is None:
            *layers, leaf = path
            source = f"{names['.'.join(layers)]}.{'bias' if leaf == 'bias' else 'weight'}"
        source = Source((source,)) if isinstance(source, str) else source
        return source._replace(keys=tuple(below + key for key in source.keys))


# The blocks of OpenAI's CLIP, in its towers of images and of text alike.
OPENAI_BLOCK = {
    "norm1": "ln_1",
    "qkv.kernel": "attn.in_proj_weight",
    "qkv.bias": "attn.in_proj_bias",
    "proj": "attn.out_proj",
    "norm2": "ln_2",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def read_vit(
    name: str,
    arrays: Mapping[str, np.ndarray],
    layout: Layout,
    heads: int | None = None,
    depth: int | None = None,
    fit: str = "crop",
    **fields: Any,
) -> Encoder:
    """Returns the ViT in `arrays`, for images of the size of its position embeddings.

    `heads` and `depth` (blocks) are what a file beside the weights says; None: those published of
    this width. `fields` are those of the model's config that keys and shapes do not tell.

    Raises ValueError as `fill`, and where one of the two embeddings is missing, empty or of another
    rank, blocks are missing, patches do not fill a square, or nothing tells the number of heads. Of
    a layout without positions the encoder reads images of 14 x 14 patches.
    """
    patches, positions = f"{layout.patches}.weight", layout.positions
    for key, rank in ((patches, (4,)), (positions, (2, 3))):
        if key and (key not in arrays or arrays[key].ndim not in rank or not arrays[key].size):
            raise ValueError(f"not this kind of ViT: no {key} of {rank[-1]} dimensions")
    width, _, patch, _ = arrays[patches].shape
    registers = [key for key in layout.registers if key in arrays]
    fields = _told_by_keys(arrays, layout, width, registers) | fields
    class_token = fields.get("class_token", True)
    tokens = class_token + fields.get("registers", 0)
    count = arrays[positions].shape[-2] if positions else 14 * 14
    choices = (tokens, 1, 0) if layout.has_place is None else (int(layout.has_place),)
    choices = choices if positions else (0,)
    places = next((p for p in choices if p < count and isqrt(count - p) ** 2 == count - p), None)
    if places is None:
        raise ValueError(f"{positions} has {count} places: not a square, nor one more")
    block = layout.block.format(r"(\d+)")
    numbers = {int(m[1]) for m in (re.match(block, key) for key in arrays) if m}
    variant, heads = _variant(width, numbers, heads, depth, class_token)
    size = patch * isqrt(count - places)
    model = {"name": "vit", "variant": variant, "patch": patch, "image_size": size, **fields}
    if VARIANTS.get(variant, (0, 0, width / 64))[2] != heads:
        model["heads"] = heads
    own = _tokens(layout, registers, places)

    def source_of(path: tuple[str, ...]) -> Source:
        return own.get(path[1]) or layout.source(path[1:])

    variables = fill(model, arrays, source_of, f"ViT-{variant}/{patch}")
    return Encoder(name, model, variables, size, fit)


def size_facts(facts: Mapping[str, Any]) -> dict[str, int]:
    """Returns the heads and the depth that a config.json says, by transformers' names or timm's."""
    names = {"heads": ("num_attention_heads", "num_heads"), "depth": ("num_hidden_layers", "depth")}
    found = {field: facts[name] for field, both in names.items() for name in both if name in facts}
    for field, number in found.items():
        if type(number) is not int or not 0 < number < 10_000:
            raise ValueError(f"config.json says {plain(repr(number))} for {names[field][0]}")
    return found


def _told_by_keys(
    arrays: Mapping[str, np.ndarray], layout: Layout, width: int, registers: list[str]
) -> dict[str, Any]:
    """Returns the model's fields that keys and shapes tell."""
    told: dict[str, Any] = {}
    first = layout.block.format(0)
    last = arrays.get(f"{first}{layout.inner['fc2']}.weight", np.empty(0))
    if last.ndim == 2 and last.shape[1] not in (0, 4 * width):
        told["hidden"] = last.shape[1]
    if registers:
        told["registers"] = sum(_num_rows(arrays, key) for key in registers)
    if first + layout.inner.get("scale1", "?") in arrays:
        told["layer_scale"] = 1.0
    if layout.has_place is None and layout.cls not in arrays:
        told["class_token"] = False
    return told


def _num_rows(arrays: Mapping[str, np.ndarray], key: str) -> int:
    """Returns n of the array [1 n d] called `key`. Raises ValueError for another rank."""
    if arrays[key].ndim != 3:
        raise ValueError(f"{key} of shape {arrays[key].shape} where [1 n d] is expected")
    return arrays[key].shape[1]


def _variant(
    width: int, numbers: set[int], heads: int | None, depth: int | None, class_token: bool
) -> tuple[str, int]:
    """Returns the variant and its heads. Raises ValueError for missing blocks, unknown heads."""
    if depth is None and (width, len(numbers)) not in HEADS:
        # A ViT-S of six blocks is half a checkpoint, not a variant.
        depth = next((d for w, d, _ in VARIANTS.values() if w == width), None)
    depth = depth or len(numbers)
    name = next((name for name, size in VARIANTS.items() if size[:2] == (width, depth)), "")
    if not numbers or numbers != set(range(depth)):
        missing = sorted(set(range(depth or 1)) - numbers)
        more = sorted(numbers - set(range(depth)))
        raise ValueError(
            f"does not fit a ViT{'-' + name if name else ''} of width {width} and {depth} blocks: "
            f"blocks missing: {missing or 'none'}; too many: {more or 'none'}"
        )
    if not heads and (class_token or (width, depth) != (768, 12)):
        heads = HEADS.get((width, depth))
    if not heads:
        raise ValueError(
            f"a ViT of width {width} and {depth} blocks with {'a' if class_token else 'no'} class "
            "token: no weights tell the number of its heads. Write what it is into config.json "
            'beside them, as {"num_attention_heads": 12}'
        )
    return name or f"{width}x{depth}", heads


def _tokens(layout: Layout, registers: list[str], places: int) -> dict[str, Source]:
    """Returns the sources of tokens and positions, of which the first `places` are the tokens'."""
    positions = (layout.positions,)
    own = {
        "cls": Source((layout.cls,), np.ravel),
        "register_tokens": Source(tuple(registers), lambda *t: np.concatenate(t, axis=1)[0]),
        "positions": Source(positions, lambda place: rows(place)[places:]),
    }
    if places:
        own["cls"] = Source(
            (layout.cls, layout.positions),
            lambda token, place: add_alike(token.ravel(), rows(place)[0]),
        )
    if places > 1:
        own["register_tokens"] = Source(
            (*registers, layout.positions),
            lambda *t: add_alike(np.concatenate(t[:-1], axis=1)[0], rows(t[-1])[1:places]),
        )
    return own


def rows(array: np.ndarray) -> np.ndarray:
    """Returns [n d] of an array [1 n d] or [n d]."""
    return array[0] if array.ndim == 3 else array


def stacked(*keys: str) -> Source:
    """Returns a source that stacks several arrays, as those of query, key and value."""
    return Source(keys, lambda *parts: np.concatenate(parts))


def query_key_value(
    layer: str, parts: Sequence[str] = ("query", "key", "value")
) -> dict[str, Source]:
    """Returns the sources of "qkv" in three layers, named by `parts` for {part}."""
    layers = [layer.replace("{part}", part) for part in parts]
    return {
        "qkv.kernel": stacked(*(f"{name}.weight" for name in layers)),
        "qkv.bias": stacked(*(f"{name}.bias" for name in layers)),
    }


# The blocks of CLIP and SigLIP in transformers, in towers of images and of text alike.
CLIP_BLOCK = {
    "norm1": "layer_norm1",
    **query_key_value("self_attn.{part}_proj", "qkv"),
    "proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


def without_key_bias(query: str, value: str) -> Source:
    """Returns the source of "qkv.bias" where keys have none: zeros, which is the same."""
    return Source((query, value), lambda q, v: np.concatenate([q, np.zeros_like(q), v]))


def write_vit(params: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """Returns a ViT's parameters under the keys of `layout`, which holds one array of registers."""
    params = {name: value for name, value in params.items()}
    positions, cls = np.asarray(params.pop("positions")), params.pop("cls", None)
    if layout.has_place:  # ours has none: the class token's is in the token
        positions = np.pad(positions, ((1, 0), (0, 0)))
    tensors = {layout.positions: positions if layout.flat else positions[None]}
    if cls is not None:
        tensors[layout.cls] = np.asarray(cls) if layout.flat else np.asarray(cls)[None, None]
    if "register_tokens" in params:
        tensors[layout.registers[-1]] = np.asarray(params.pop("register_tokens"))[None]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = tuple(entry.key for entry in path)
        keys = layout.source(names).keys
        tensors |= zip(keys, np.split(torch_array(names[-1], leaf), len(keys)))
    return tensors

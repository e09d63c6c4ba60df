"""Fills a model's variables from a file's arrays: all of them, by all of them, or not at all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import models


class Source(NamedTuple):
    """The keys of a file that hold a variable, and how their arrays make it.

    `join` gives PyTorch's axis order.
    """

    keys: tuple[str, ...]
    join: Callable[..., np.ndarray] = lambda array: array


def add_alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns a + b without broadcasting. Raises ValueError where their shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a + b


def fill(
    model: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    source_of: Callable[[tuple[str, ...]], Source],
    architecture: str,
) -> dict[str, Any]:
    """Returns the variables {"params", "batch_stats"} of `models.build(model)`, float32.

    `source_of` says where a variable comes from by its path ("params", "layer1_0", "conv1",
    "kernel"); `architecture` is what errors call the model.

    Raises ValueError with all that does not fit `architecture`: keys that are missing, unexpected,
    of a wrong shape, not of a floating dtype or not finite.
    """
    net = models.build(model)
    image = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    expected = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, False), image)
    return {"batch_stats": {}} | fill_variables(expected, arrays, source_of, architecture)


def fill_variables(
    expected: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    source_of: Callable[[tuple[str, ...]], Source],
    architecture: str,
) -> dict[str, Any]:
    """Returns variables of the shapes of `expected`, as `fill` does."""
    variables, structure = jax.tree_util.tree_flatten_with_path(dict(expected))
    sources = [source_of(tuple(entry.key for entry in path)) for path, _ in variables]
    wanted = list(dict.fromkeys(key for source in sources for key in source.keys))
    known, found = set(wanted), [key for key in wanted if key in arrays]
    values, misshapen = [], []
    for source, (path, leaf) in zip(sources, variables):
        if not all(key in arrays for key in source.keys):
            continue
        try:
            values.append(_join(source, arrays, path[-1].key, leaf.shape))
        except ValueError as error:
            misshapen.append(str(error))
    faults = {
        "missing": [key for key in wanted if key not in arrays],
        "unexpected": [key for key in arrays if key not in known],
        "of another shape": misshapen,
        "not of a floating dtype": [
            f"{key} ({arrays[key].dtype})"
            for key in found
            if not jnp.issubdtype(arrays[key].dtype, jnp.floating)
        ],
        "not finite": [key for key in found if not _is_finite(arrays[key])],
    }
    if any(faults.values()):
        what = "; ".join(
            f"{len(keys)} {how}: {list_first(keys)}" for how, keys in faults.items() if keys
        )
        raise ValueError(f"does not fit {architecture}, which has {len(wanted)} keys; {what}")
    return jax.tree_util.tree_unflatten(structure, values)


def _join(
    source: Source, arrays: Mapping[str, np.ndarray], leaf: str, shape: tuple[int, ...]
) -> jax.Array:
    """Returns the variable called `leaf`, of `shape`. Raises ValueError for other arrays."""
    kernel = leaf == "kernel"
    expected = to_torch(np.broadcast_to(0, shape)).shape if kernel else shape
    parts = [arrays[key] for key in source.keys]
    described = " and ".join(f"{key} {part.shape}" for key, part in zip(source.keys, parts))
    try:
        joined = source.join(*(part.astype(np.float32) for part in parts))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{described} ({error})") from error
    if joined.shape != expected:
        raise ValueError(f"{described} where {expected} is expected")
    return jnp.asarray(from_torch(joined) if kernel else joined)


def from_torch(kernel: np.ndarray) -> np.ndarray:
    """Transposes (out, in, height, width) to (height, width, in, out), or (out, in) to (in, out).

    >>> from_torch(np.zeros((64, 3, 7, 7))).shape
    (7, 7, 3, 64)
    """
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def to_torch(kernel: np.ndarray) -> np.ndarray:
    """Transposes a kernel back from `from_torch`."""
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def own_key(path: tuple[str, ...]) -> Source:
    """Returns the source of a variable in a file of ours: its path, in the axis order it has here.

    >>> own_key(("params", "conv1", "kernel")).keys
    ('params.conv1.kernel',)
    """
    key = ".".join(path)
    # `fill` turns kernels from PyTorch's axis order into ours, which these have.
    return Source((key,), to_torch) if path[-1] == "kernel" else Source((key,))


def flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a nested tree by their paths, joined by dots.

    >>> list(flat({"params": {"bias": np.ones(1)}, "batch_stats": {}}))
    ['params.bias']
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # safetensors writes what lies in memory, whatever the strides say.
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in leaves}
    return {".".join(entry.key for entry in path): array for path, array in arrays.items()}


def torch_array(leaf: str, array: Any) -> np.ndarray:
    """Returns the variable called `leaf` as torch has it, float32."""
    array = np.asarray(array, np.float32)
    # As in `flat`.
    return np.ascontiguousarray(to_torch(array)) if leaf == "kernel" else array


def _is_finite(array: np.ndarray) -> bool:
    # What is no float is reported as such, and text has no finite values.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return True
    return bool(np.isfinite(array.astype(np.float32)).all())


def strip_prefix(
    arrays: Mapping[str, np.ndarray], prefixes: Sequence[str], ignored: Sequence[str]
) -> dict[str, np.ndarray]:
    """Takes the first of `prefixes` that any key has off the keys that have it.

    `ignored`: how all other keys may begin; they are left out. Raises ValueError where no key has
    any of the prefixes, or another key is not ignored.

    >>> strip_prefix({"net.bias": np.ones(1), "head.bias": np.ones(9)}, ("net.",), ("head.",))
    {'bias': array([1.])}
    """
    prefix = next((p for p in prefixes if any(key.startswith(p) for key in arrays)), None)
    if prefix is None:
        raise ValueError(
            f"no key begins with {' or '.join(map(repr, prefixes))} (keys: {list_first(arrays, 3)})"
        )
    others = [key for key in arrays if not key.startswith((prefix, *ignored))]
    if others:
        raise ValueError(f"{len(others)} unexpected beside {prefix!r}: {list_first(others)}")
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def without(arrays: Mapping[str, np.ndarray], *ignored: str) -> dict[str, np.ndarray]:
    """Returns the arrays whose keys do not begin with any of `ignored`."""
    return {key: array for key, array in arrays.items() if not key.startswith(ignored)}


def refuse_prefix(arrays: Mapping[str, np.ndarray], *ends: str) -> None:
    """Raises ValueError where keys end in every one of `ends` below a prefix, and none is bare."""
    prefixes = [
        key.removesuffix(ends[0])
        for key in arrays
        if key.endswith("." + ends[0])
        and all(key.removesuffix(ends[0]) + end in arrays for end in ends)
    ]
    if ends[0] in arrays or not prefixes:
        return
    strip = prefixes[0]
    raise ValueError(
        f"the keys carry the prefix {' and '.join(map(repr, prefixes))}; strip it and save again: "
        f"{{k.removeprefix({strip!r}): v for k, v in weights.items() if k.startswith({strip!r})}}"
    )


def list_first(items: Iterable[str], count: int = 5) -> str:
    """Lists the first few of `items`, and says how many more there are.

    >>> list_first("abcd", 2)
    'a, b, … and 2 more'
    """
    items = list(items)
    rest = len(items) - count
    return ", ".join(items[:count]) + (f", … and {rest} more" if rest > 0 else "")


@contextmanager
def errors_naming(path: str | Path) -> Iterator[None]:
    """Puts `path` before the message of a ValueError that is raised within."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

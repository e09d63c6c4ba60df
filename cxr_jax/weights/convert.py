"""A model's variables filled from a file's arrays: all of them, with all of them, or not at all."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cxr_jax import models


def _only(array: np.ndarray) -> np.ndarray:
    return array


class Source(NamedTuple):
    """Which keys of a file hold a variable, and how they make it, in PyTorch's axis order."""

    keys: tuple[str, ...]
    join: Callable[..., np.ndarray] = _only


def added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b, without broadcasting. Raises ValueError where their shapes differ."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ")
    return a + b


def fill(
    model: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    source_of: Callable[[tuple[str, ...]], Source],
    architecture: str,
) -> dict[str, Any]:
    """The variables {"params", "batch_stats"} of `models.build(model)`, float32.

    `source_of` says of a variable's path ("params", "layer1_0", "conv1", "kernel") where it is.

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
    """As `fill`, for the variables whose shapes are `expected`."""
    variables, structure = jax.tree_util.tree_flatten_with_path(dict(expected))
    sources = [source_of(tuple(entry.key for entry in path)) for path, _ in variables]
    wanted = list(dict.fromkeys(key for source in sources for key in source.keys))
    known, found = set(wanted), [key for key in wanted if key in arrays]
    values, misshapen = [], []
    for source, (path, leaf) in zip(sources, variables):
        if not all(key in arrays for key in source.keys):
            continue
        value, fault = _joined(source, arrays, path[-1].key, leaf.shape)
        values.append(value)
        misshapen += [fault] if fault else []
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
            f"{len(keys)} {how}: {first(keys)}" for how, keys in faults.items() if keys
        )
        raise ValueError(f"does not fit {architecture}, which has {len(wanted)} keys; {what}")
    return jax.tree_util.tree_unflatten(structure, values)


def _joined(
    source: Source, arrays: Mapping[str, np.ndarray], leaf: str, shape: tuple[int, ...]
) -> tuple[jax.Array | None, str]:
    """The variable called `leaf`, of `shape`, or what is wrong with what should give it."""
    kernel = leaf == "kernel"
    expected = _torch_shape(shape) if kernel else shape
    parts = [arrays[key] for key in source.keys]
    described = " and ".join(f"{key} {part.shape}" for key, part in zip(source.keys, parts))
    try:
        joined = source.join(*(part.astype(np.float32) for part in parts))
    except (ValueError, IndexError) as error:
        return None, f"{described} ({error})"
    if joined.shape != expected:
        return None, f"{described} where {expected} is expected"
    return jnp.asarray(from_torch(joined) if kernel else joined), ""


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
    return tuple(shape[axis] for axis in order)


def from_torch(kernel: np.ndarray) -> np.ndarray:
    """(out, in, height, width) to (height, width, in, out), or (out, in) to (in, out)."""
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def to_torch(kernel: np.ndarray) -> np.ndarray:
    """The other way round."""
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T


def _is_finite(array: np.ndarray) -> bool:
    # What is no float is reported as such, and text has no finite values.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return True
    return bool(np.isfinite(array.astype(np.float32)).all())


def first(items: Iterable[str], count: int = 5) -> str:
    """The first few of `items`, and how many more there are."""
    items = list(items)
    rest = len(items) - count
    return ", ".join(items[:count]) + (f", … and {rest} more" if rest > 0 else "")


@contextmanager
def of_file(path: str | Path) -> Iterator[None]:
    """Errors of what is done within name the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

"""Keys that stand below a prefix: taken from there on purpose, or refused with the advice to."""

from collections.abc import Mapping, Sequence

import numpy as np

from cxr_jax.weights.convert import first


def below(
    arrays: Mapping[str, np.ndarray], prefixes: Sequence[str], ignored: Sequence[str]
) -> dict[str, np.ndarray]:
    """The arrays below the first of `prefixes` that any key begins with, the prefix taken off.

    `ignored`: how all other keys may begin. Raises ValueError where there is nothing below any
    prefix, or another key that is not ignored.
    """
    prefix = next((p for p in prefixes if any(key.startswith(p) for key in arrays)), None)
    if prefix is None:
        raise ValueError(
            f"no key begins with {' or '.join(map(repr, prefixes))} (keys: {first(arrays, 3)})"
        )
    kept = {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
    others = [key for key in arrays if not key.startswith((prefix, *ignored))]
    if others:
        raise ValueError(f"{len(others)} unexpected beside {prefix!r}: {first(others)}")
    return kept


def without(arrays: Mapping[str, np.ndarray], *ignored: str) -> dict[str, np.ndarray]:
    """The arrays whose keys do not begin with any of `ignored`."""
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

"""Holm's correction for several tests at once."""

import numpy as np
from jaxtyping import Float


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Adjusted p-values, in the order given: below alpha where Holm's procedure rejects at alpha.

    The k-th smallest of m p-values is multiplied by m - k + 1, and no adjusted value may be below
    that of a smaller p-value (Holm 1979). The chance of one false rejection or more stays below
    alpha whatever the dependence between the tests. A NaN is a test that was not done: it stays NaN
    and is not counted among the m. Raises ValueError, naming the place, for a value outside [0, 1].
    """
    bad = np.flatnonzero((p_values < 0) | (p_values > 1))
    if bad.size:
        raise ValueError(f"p-value {bad[0]} is {p_values[bad[0]]}: p-values lie in [0, 1]")
    done = np.flatnonzero(~np.isnan(p_values))
    order = done[np.argsort(p_values[done], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return adjusted

"""Which parts of a film a score rests on.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the encoder's last feature map. Where features
are the map's mean and the head is linear it equals CAM (Zhou et al. 2016, arXiv:1512.04150), and
the parts before they are rectified add up to the score.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from cxr_jax import models
from cxr_jax.evaluate.protocol import Head


def grad_cam(
    head: Head, films: UInt8[np.ndarray, "b h w 1"], label: int
) -> Float[np.ndarray, "b i j"]:
    """What speaks for the label, part by part of the film, 0 or more; in units of the score.

    Films are as large as the head's encoder reads them. Raises as `contributions`.
    """
    return np.maximum(contributions(head, films, label), 0)


def contributions(
    head: Head, films: UInt8[np.ndarray, "b h w 1"], label: int
) -> Float[np.ndarray, "b i j"]:
    """Grad-CAM before it is rectified: what speaks for the label (above 0) and against it.

    Of mean-pooled features, a film's sum and the head's bias are its score. Raises ValueError for a
    label that was not scored, and for an encoder whose model gives no feature map.
    """
    if np.isnan(head.kernel[:, label]).any():
        raise ValueError(f"label {label} was not scored: the head has no weights for it")
    model = models.build(head.encoder.model)
    if not (hasattr(model, "maps") and hasattr(model, "pool")):
        raise ValueError(
            f"model {head.encoder.model['name']!r} gives no feature map: it needs the methods "
            "`maps` and `pool` (cxr_jax/models/__init__.py)"
        )
    kernel = jnp.asarray(head.kernel[:, label], jnp.float32)
    return np.asarray(_grad_cam(model, head.encoder.variables, kernel, films / np.float32(255)))


@partial(jax.jit, static_argnums=0)
def _grad_cam(
    model: nn.Module,
    variables: dict[str, Any],
    kernel: Float[Array, " d"],
    images: Float[Array, "b h w 1"],
) -> Float[Array, "b i j"]:
    def score(maps: Float[Array, "b i j d"]) -> Float[Array, ""]:
        features = model.apply(variables, maps, method="pool")
        return jnp.matmul(features, kernel, precision="highest").sum()

    maps = model.apply(variables, images, False, method="maps")
    weights = jax.grad(score)(maps).mean(axis=(1, 2))  # eq. 1 of Selvaraju et al.
    return jnp.einsum("bijd,bd->bij", maps, weights, precision="highest")  # eq. 2 without ReLU

"""Which parts of an image make it score higher than the average training image.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on the encoder's last feature map, of the
features less those of the average training image. Without an image to compare with the map would mean
little: a probe of standardised features keeps their mean in its bias, which has no place on an image,
and what the ReLU then leaves need not have to do with the label. Where features are the map's mean
and the head is linear it equals CAM (Zhou et al. 2016, arXiv:1512.04150) of that difference.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from cxr_jax import models
from cxr_jax.transfer._protocol import Head


def grad_cam(
    head: Head,
    images: UInt8[np.ndarray, "b h w 1"],
    label: int,
    average: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "b i j"]:
    """By how much each part of an image raises its logit, 0 where it does not.

    As `contributions`, rectified.
    """
    return np.maximum(contributions(head, images, label, average), 0)


def contributions(
    head: Head,
    images: UInt8[np.ndarray, "b h w 1"],
    label: int,
    average: Float[np.ndarray, " d"],
) -> Float[np.ndarray, "b i j"]:
    """By how much each part of an image raises its logit (above 0) or lowers it.

    Images are as large as the head's encoder reads them. `average`: the mean features, of that
    encoder, of the training images. An image's sum is its logit less that of the average training
    image. Raises ValueError for a label that was not scored, and for an encoder
    whose model gives no feature map.
    """
    if np.isnan(head.kernel[:, label]).any():
        raise ValueError(f"label {label} was not scored: the head has no weights for it")
    model = models.build(head.encoder.model)
    if not (hasattr(model, "maps") and hasattr(model, "pool")):
        raise ValueError(
            f"model {head.encoder.model['name']!r} gives no feature map: it needs the methods "
            "`maps` and `pool` (cxr_jax/models/__init__.py)"
        )
    kernel = head.kernel[:, label]
    maps, weights, logits = _maps_weights_logits(
        model, head.encoder.variables, jnp.asarray(kernel, jnp.float32), images / np.float32(255)
    )
    # Eq. 2 of Selvaraju et al. without ReLU. In doubles: it is a small difference of large sums.
    parts = np.einsum("bijc,bc->bij", np.float64(maps), np.float64(weights))
    # Of mean-pooled features parts sum to the logit. Of others, as a ViT's behind its last block,
    # they do not: what is over belongs to no place, and is spread over all.
    over = np.float64(logits) - parts.sum(axis=(1, 2)) - np.float64(average) @ np.float64(kernel)
    return parts + (over / parts[0].size)[:, None, None]


@partial(jax.jit, static_argnums=0)
def _maps_weights_logits(
    model: nn.Module,
    variables: dict[str, Any],
    kernel: Float[Array, " d"],
    images: Float[Array, "b h w 1"],
) -> tuple[Float[Array, "b i j c"], Float[Array, "b c"], Float[Array, "b"]]:
    def score(maps: Float[Array, "b i j c"]) -> tuple[Float[Array, ""], Float[Array, "b"]]:
        features = model.apply(variables, maps, method="pool")
        logits = jnp.matmul(features, kernel, precision="highest")
        return logits.sum(), logits

    maps = model.apply(variables, images, False, method="maps")
    gradient, logits = jax.grad(score, has_aux=True)(maps)
    return maps, gradient.mean(axis=(1, 2)), logits  # eq. 1 of Selvaraju et al.

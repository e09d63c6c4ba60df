"""Barlow Twins: the cross-correlation of two views' embeddings is to be the identity matrix.

Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", arXiv:2103.03230,
and its official code. Fields of config.objective:

hidden      the projector's hidden widths; (8192, 8192)
out         what it gives; 8192
redundancy  the paper's lambda, the weight of what is not on the diagonal; .0051
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _networks


def barlow_loss(
    z_a: Float[Array, "n d"], z_b: Float[Array, "n d"], redundancy: float
) -> Float[Array, ""]:
    """Returns the sum of (1 - c_ii)^2 plus redundancy times that of c_ij^2, i != j (eq. 1).

    c, of d x d, is the correlation over the batch of dimension i of `z_a` and j of `z_b`. Equal
    views with independent dimensions: 0; a dimension that is constant adds 1. Float32.

    >>> barlow_loss(jnp.ones((4, 3)), jnp.ones((4, 3)), 0.005).item()
    3.0
    """
    c = cross_correlation(z_a, z_b)
    diagonal = jnp.diagonal(c)
    off_diagonal = jnp.where(jnp.eye(len(c), dtype=bool), 0.0, c)
    return jnp.sum((1 - diagonal) ** 2) + redundancy * jnp.sum(off_diagonal**2)


def cross_correlation(z_a: Float[Array, "n d"], z_b: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """Correlates dimensions that a batch norm without parameters standardises, as officially."""
    z_a, z_b = (_standardise(z.astype(jnp.float32)) for z in (z_a, z_b))
    return jnp.matmul(z_a.T, z_b, precision=jax.lax.Precision.HIGHEST) / z_a.shape[0]


def _standardise(z: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return (z - z.mean(axis=0)) * jax.lax.rsqrt(z.var(axis=0) + 1e-5)


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", ("name", "hidden", "out", "redundancy"))
    good = fields["redundancy"] >= 0
    check_values(fields, "config.objective", ("redundancy", good, "0 or more"))
    chain = _networks.encoder_and_heads(config, projector={})

    def loss_from_outputs(outputs, aux):
        z_a, z_b = outputs["a"]["projector"], outputs["b"]["projector"]
        metrics = _networks.collapse_metrics(jnp.concatenate([z_a, z_b]))
        return barlow_loss(z_a, z_b, fields["redundancy"]), (aux, metrics)

    views = _networks.two_views(config)
    return _networks.siamese(chain, views, ("projector",), loss_from_outputs)

"""VICReg: views agree, while every dimension keeps its variance and shares it with no other.

Bardes et al., "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
arXiv:2105.04906, and its official code. Fields of config.objective:

hidden      the projector's hidden widths; (8192, 8192)
out         what it gives; 8192
invariance  weight of the squared difference of the views; 25
variance    weight of what standard deviations lack; 25
covariance  weight of the squared covariances of dimensions; 1
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cxr_jax.config import Section, check_fields, check_values
from cxr_jax.objectives import Objective, _networks

_TERMS = ("invariance", "variance", "covariance")


def vicreg_terms(z_a: Float[Array, "n d"], z_b: Float[Array, "n d"]) -> dict[str, Float[Array, ""]]:
    """Returns the three terms before their weights (eqs. 1 to 5), as the official code scales them.

    invariance: mean squared difference; variance: how far standard deviations fall short of 1, mean
    over dimensions and views; covariance: squared covariances of different dimensions, their sum
    over d, added up over views. Float32.

    >>> round(vicreg_terms(jnp.ones((4, 3)), jnp.ones((4, 3)))["variance"].item(), 2)  # collapsed
    0.99
    """
    z_a, z_b = z_a.astype(jnp.float32), z_b.astype(jnp.float32)
    return {
        "invariance": jnp.mean((z_a - z_b) ** 2),
        "variance": (_shortfall(z_a) + _shortfall(z_b)) / 2,
        "covariance": _covariance(z_a) + _covariance(z_b),
    }


def _shortfall(z: Float[Array, "n d"]) -> Float[Array, ""]:
    return jax.nn.relu(1 - jnp.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean()


def _covariance(z: Float[Array, "n d"]) -> Float[Array, ""]:
    n, d = z.shape
    z = z - z.mean(axis=0)
    covariance = jnp.matmul(z.T, z, precision=jax.lax.Precision.HIGHEST) / (n - 1)
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0.0, covariance) ** 2) / d


def make(config: Section) -> Objective:
    """Raises ValueError for fields of config.objective or config.views that do not fit."""
    fields = config["objective"]
    check_fields(fields, "config.objective", ("name", "hidden", "out", *_TERMS))
    weights = [(name, fields[name] >= 0, "0 or more") for name in _TERMS]
    check_values(fields, "config.objective", *weights)
    chain = _networks.encoder_and_heads(config, projector={})

    def loss_from_outputs(outputs, aux):
        z_a, z_b = outputs["a"]["projector"], outputs["b"]["projector"]
        terms = vicreg_terms(z_a, z_b)
        metrics = _networks.collapse_metrics(jnp.concatenate([z_a, z_b])) | terms
        return sum(fields[name] * terms[name] for name in _TERMS), (aux, metrics)

    views = _networks.two_views(config)
    return _networks.siamese(chain, views, ("projector",), loss_from_outputs, _TERMS)

"""Signs of collapse, measured on a batch of embeddings."""

import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float

from cxr_jax.objectives import l2_normalise

METRICS = ("embedding_std", "effective_rank")  # what `collapse_metrics` gives
ASSIGNMENT_METRICS = ("target_entropy", "prototypes_used")


def embedding_std(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns the spread of the directions: 1 when isotropic, 0 when all are equal.

    The standard deviation over the batch of each dimension of the l2-normalised embeddings, mean
    over dimensions, times sqrt(d) (Chen and He, SimSiam, arXiv:2011.10566, section 4.1).
    """
    return l2_normalise(embeddings).std(axis=0).mean() * jnp.sqrt(embeddings.shape[1])


def effective_rank(embeddings: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns how many directions the embeddings use, from 1 to min(n - 1, d).

    The participation ratio tr(C)^2 / tr(C^2) of the embedding covariance C. It sees the collapse
    to a few dimensions that `embedding_std` misses.

    >>> effective_rank(jnp.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])).item()
    2.0
    >>> effective_rank(jnp.ones((4, 2))).item()  # all embeddings are equal
    1.0
    """
    embeddings = embeddings.astype(jnp.float32)
    centred = embeddings - embeddings.mean(axis=0)
    n, d = centred.shape
    # X^T X and X X^T have the same trace and Frobenius norm: take the smaller.
    gram = centred.T @ centred if d <= n else centred @ centred.T
    total, square = jnp.trace(gram), jnp.sum(gram**2)
    rounding = 1e-12 * jnp.sum(embeddings**2)
    spread = total > rounding
    return jnp.where(spread, total**2 / jnp.where(spread, square, 1), 1.0)


def collapse_metrics(projections: Float[Array, "n d"]) -> dict[str, Float[Array, ""]]:
    """Returns both, of the projections' directions, which is all that a cosine loss sees."""
    return {
        "embedding_std": embedding_std(projections),
        "effective_rank": effective_rank(l2_normalise(projections)),
    }


def assignment_metrics(probabilities: Float[Array, "*n k"]) -> dict[str, Float[Array, ""]]:
    """Returns the two collapses of a clustering head (DINO, arXiv:2104.14294, section 5.3).

    "target_entropy", of one assignment, mean over them, in nats: log k where the head collapsed to
    the uniform assignment. "prototypes_used": exp of the entropy of the mean assignment, from 1,
    where all images have the same prototype, to k.
    """
    mean = probabilities.reshape(-1, probabilities.shape[-1]).mean(axis=0)
    return {
        "target_entropy": entr(probabilities).sum(axis=-1).mean(),
        "prototypes_used": jnp.exp(entr(mean).sum()),
    }

"""Nearest-neighbour scores: how well labels follow the geometry of features, untrained."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def knn_scores(
    train_features: Shaped[np.ndarray, "n d"],
    train_targets: Shaped[np.ndarray, "n labels"],
    test_features: Shaped[np.ndarray, "m d"],
    k: int = 20,
    temperature: float = 0.07,
    batch_size: int = 512,
) -> Float[np.ndarray, "m labels"]:
    """Share of the vote for each label among the k nearest train images, in [0, 1].

    Similarity is the cosine, a neighbour's weight exp(similarity / temperature) (Wu et al. 2018,
    arXiv:1805.01978, eq. 12). A label's voters are the nearest images among those that have a
    target for it (NaN: missing); a label that no train image has gives NaN. `k` above the number of
    voters takes all of them. An all-zero feature is at similarity 0 to everything.
    Test images go to the device in batches of `batch_size`.
    """
    for name, value in (("k", k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1 is needed")
    targets = np.asarray(train_targets, np.float32)
    train, test = _normalised(train_features), _normalised(test_features)
    scores = np.full((len(test), targets.shape[1]), np.nan, np.float32)
    known = ~np.isnan(targets)
    # Labels known for the same images share their voters, hence one search.
    for pattern in np.unique(known.T, axis=0):
        labels = np.flatnonzero((pattern == known.T).all(axis=1))
        if not pattern.any():
            continue
        voters = jnp.asarray(train[pattern])
        votes = jnp.asarray(targets[np.ix_(pattern, labels)])
        nearest = min(k, len(voters))
        for start in range(0, len(test), batch_size):
            rows = slice(start, start + batch_size)
            scores[rows, labels] = _vote(
                test[rows], voters, votes, nearest, jnp.float32(temperature)
            )
    return scores


@partial(jax.jit, static_argnames="k")
def _vote(
    test: Float[Array, "b d"],
    train: Float[Array, "n d"],
    votes: Float[Array, "n labels"],
    k: int,
    temperature: Float[Array, ""],
) -> Float[Array, "b labels"]:
    # Full precision: the default on accelerators rounds similarities to about three digits, and
    # the temperature magnifies them fifteenfold.
    similarity = jnp.matmul(test, train.T, precision="highest")
    nearest, index = jax.lax.top_k(similarity, k)
    weight = jax.nn.softmax(nearest / temperature, axis=1)
    return jnp.einsum("bk,bkl->bl", weight, votes[index], precision="highest")


def _normalised(features: Shaped[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    features = np.asarray(features, np.float32)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norm == 0, 1, norm)

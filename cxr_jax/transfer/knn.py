"""Nearest-neighbour scores: how well labels follow the geometry of features, untrained."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from cxr_jax.config import Section, check_fields
from cxr_jax.stats.bootstrap import label_auroc
from cxr_jax.transfer._protocol import (
    Protocol,
    Result,
    Splits,
    Tools,
    against,
    at_labels,
    positive_numbers,
    usable_labels,
)
from cxr_jax.weights.encoder import Encoder


def make(config: Section) -> Protocol:
    """Returns the protocol "knn". Fields of config.knn:

    k            how many neighbours vote; of several numbers validation chooses, label by label
    temperature  votes are weighted by exp(cosine / temperature); one, or several as of k

    Ties go to the larger k, then to the larger temperature: votes of more images are smoother.
    """
    check_fields(config["knn"], "config.knn", ("k", "temperature"))
    ks, temperatures = (positive_numbers(config, f"knn.{name}") for name in ("k", "temperature"))
    if any(k != int(k) for k in ks):
        raise ValueError(f"config.knn.k is {list(ks)}: give whole numbers of neighbours")
    grid = list(itertools.product(ks[::-1], temperatures[::-1]))

    def run(encoder: Encoder, splits: Splits, tools: Tools) -> Result:
        train, validation, test = (tools.extract(name) for name in Splits._fields)
        names = splits.test.label_names
        labels, not_scored = usable_labels(splits.train.targets, splits.validation.targets, names)
        targets, truth = (split.targets[:, labels] for split in splits[:2])
        best = np.zeros(len(labels), int)
        if len(grid) > 1:
            checked = [knn_scores(train, targets, validation, *one) for one in grid]
            found = [label_auroc(truth, scores) for scores in checked]
            if splits.train.task.exclusive:
                # One choice for all classes: shares of one vote add up to 1.
                found = np.repeat(np.mean(found, axis=1, keepdims=True), len(labels), 1)
            best = np.argmax(found, axis=0)
        scores = np.full((len(test), len(labels)), np.nan)
        for place in np.unique(best):
            own = best == place
            scores[:, own] = knn_scores(train, targets[:, own], test, *grid[place])
        chosen = {names[k]: dict(zip(("k", "temperature"), grid[b])) for k, b in zip(labels, best)}
        told = (f"{n} k {c['k']}, temperature {c['temperature']:g}" for n, c in chosen.items())
        width = train.shape[1]
        return Result(
            scores=at_labels(scores, labels, len(names)),
            not_scored=not_scored,
            summary=f"{width} features at {encoder.image_size} px; chosen: {', '.join(told)}",
            facts={"features": width, "chosen": chosen},
            score_kind="probability",
        )

    listed = [", ".join(f"{value:g}" for value in values) for values in (ks, temperatures)]
    how = ", chosen per label on validation" if len(grid) > 1 else ""

    def method(exclusive: bool) -> tuple[str, ...]:
        return (
            "Frozen features in evaluation mode; the vote of the k training images nearest by "
            f"cosine, weighted by exp(cosine / temperature): k {listed[0]}, temperature "
            f"{listed[1]}{how}; the same for every encoder.",
            *against(exclusive),
        )

    settings = {"k": list(ks), "temperature": list(temperatures)}
    return Protocol("Nearest neighbours", method, settings, run)


def knn_scores(
    train_features: Shaped[np.ndarray, "n d"],
    train_targets: Shaped[np.ndarray, "n labels"],
    test_features: Shaped[np.ndarray, "m d"],
    k: int = 20,
    temperature: float = 0.07,
    batch_size: int = 512,
) -> Float[np.ndarray, "m labels"]:
    """Returns each label's share of the vote among the k nearest train images, in [0, 1].

    Similarity is the cosine, a neighbour's weight exp(similarity / temperature) (Wu et al. 2018,
    arXiv:1805.01978, eq. 12). A label's voters are the nearest images among those that have a
    target for it (NaN: missing); a label that no train image has gives NaN. `k` above the number of
    voters takes all of them. An all-zero feature is at similarity 0 to everything. Test images go
    to the device in batches of `batch_size`. Raises ValueError for k or batch_size below 1.

    >>> train, targets = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0], [0.0]])
    >>> knn_scores(train, targets, np.array([[3.0, 1.0]]), k=1).tolist()
    [[1.0]]
    """
    for name, value in (("k", k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1 is needed")
    targets = np.asarray(train_targets, np.float32)
    train, test = normalised(train_features), normalised(test_features)
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
            given = (voters, votes, nearest, jnp.float32(temperature))
            scores[rows, labels] = _vote(test[rows], *given)
    return np.clip(scores, 0, 1)  # float32's sums of weights may end above 1


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


def normalised(features: Shaped[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Returns float32 rows of length 1; rows of zeros stay."""
    features = np.asarray(features, np.float32)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norm == 0, 1, norm)

"""L2-regularised logistic and multinomial regression, solved to convergence at every C.

Both minimise, as scikit-learn does, f(W, b) = C sum_i loss(W x_i + b, y_i) + |W|^2 / 2 with free
intercepts b, by Newton's method (_newton.py). A larger C regularises less.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from cxr_jax.transfer import _newton


class Fit(NamedTuple):
    """Optima for s values of C and k labels; `gradient_norm` is taken at the weights returned.

    Where the steps did not suffice `converged` is False and `gradient_norm` says how far off.
    Classes fitted together share both.
    """

    weights: Float[np.ndarray, "s k d"]
    intercept: Float[np.ndarray, "s k"]
    gradient_norm: Float[np.ndarray, "s k"]
    converged: Bool[np.ndarray, "s k"]


# One logit a row: the labels of an image are fitted each on its own.
_LOGISTIC = _newton.Link(
    chance=jax.nn.sigmoid,
    loss=lambda logits, target: jnp.sum(jnp.logaddexp(0, logits) - target * logits, 0),
    curvature=lambda chance, v: chance * (1 - chance) * v,
    within=lambda move: move,
)
_MULTINOMIAL = _newton.Link(
    chance=lambda logits: jax.nn.softmax(logits, 0),
    loss=lambda logits, target: jax.nn.logsumexp(logits, 0) - jnp.sum(target * logits, 0),
    curvature=lambda chance, v: chance * (v - jnp.sum(chance * v, 0)),
    # What is common to all classes has the penalty alone for a curvature, far from the Hessian's
    # diagonal: left in, it would cost conjugate gradients most of their steps.
    within=lambda move: move - jnp.mean(move, 0),
)


def fit_logistic(
    features: Shaped[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    C: Shaped[np.ndarray, " s"],
    max_newton_steps: int = _newton.MAX_STEPS,
) -> Fit:
    """Fits every label on its own at every C, in float64.

    Targets are 0, 1 or NaN (missing: the row does not count for that label). Scale the features
    first. Every label needs both classes, else its intercept has no finite optimum; one that is
    missing everywhere comes back without meaning.
    """
    return _fit(_fit_labels, features, targets, ~np.isnan(targets.T), C, max_newton_steps)


def fit_multinomial(
    features: Shaped[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    C: Shaped[np.ndarray, " s"],
    max_newton_steps: int = _newton.MAX_STEPS,
) -> Fit:
    """Fits k >= 2 exclusive classes together at every C, in float64.

    A row of targets has one 1 and else 0, or is all NaN: it has no class and does not count. Scale
    the features first. Every class needs a row, else its intercept has no finite optimum. All
    intercepts sum to zero (shifting all by one number changes no probability), as weights do by
    the penalty.
    Of two classes it is logistic regression at twice the C, with half of its weights, up and down.
    """
    known = ~np.isnan(targets).any(axis=1)
    fit = _fit(_fit_classes, features, targets, known, C, max_newton_steps)
    shared = [np.repeat(part[:, None], targets.shape[1], 1) for part in fit[2:]]
    return Fit(*fit[:2], *shared)


def _fit(solve: Callable[..., tuple[Array, ...]], features, targets, known, C, steps) -> Fit:
    """Calls `solve` in float64; targets that are not `known` are 0."""
    with jax.enable_x64(True):
        given = (features, np.where(known, targets.T, 0), known, C)
        arrays = [jnp.asarray(part, jnp.float64) for part in given]
        return Fit(*(np.asarray(part) for part in solve(*arrays, jnp.asarray(steps))))


@jax.jit
def _fit_labels(
    features: Float[Array, "n d"],
    targets: Float[Array, "k n"],
    mask: Float[Array, "k n"],
    C: Float[Array, " s"],
    max_newton_steps: Int[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    rotated, back = _newton.principal_directions(features)

    def prevalence(target, known):
        share = jnp.sum(known * target) / jnp.maximum(jnp.sum(known), 1)
        # Where nothing is known, anything finite will do.
        return jnp.clip(jax.scipy.special.logit(share), -50, 50)

    def fit(start, strength, target, known):
        problem = (target[None], known, strength)
        return _newton.minimise(rotated, *problem, start[None], _LOGISTIC, max_newton_steps)[0]

    def fit_labels(start, strength):
        points = jax.vmap(fit, (0, None, 0, 0))(start, strength, targets, mask)
        return points, points

    def check(weights, intercept, strength, target, known):
        problem = (target[None], known, strength)
        return _newton.certificate(features, weights[None], intercept[None], *problem, _LOGISTIC)

    # Labels side by side; the C one after the other, each from the optimum of the last: side by
    # side all would take as long as the weakest penalty, which takes most steps.
    start = jnp.zeros((len(targets), rotated.shape[1] + 1), rotated.dtype)
    start = start.at[:, 0].set(jax.vmap(prevalence)(targets, mask))
    _, solution = jax.lax.scan(fit_labels, start, C)
    intercept, weights = solution[..., 0], back(solution[..., 1:])
    # The certificate is taken in the original space, so it also covers the change of basis.
    over_labels = jax.vmap(check, (0, 0, None, 0, 0))
    over_strengths = jax.vmap(over_labels, (0, 0, 0, None, None))
    return weights, intercept, *over_strengths(weights, intercept, C, targets, mask)


@jax.jit
def _fit_classes(
    features: Float[Array, "n d"],
    targets: Float[Array, "k n"],
    known: Float[Array, " n"],
    C: Float[Array, " s"],
    max_newton_steps: Int[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    rotated, back = _newton.principal_directions(features)
    # Of the images without class, targets are 0.
    prevalence = jnp.log(jnp.sum(targets, 1)) - jnp.log(jnp.sum(known))
    start = jnp.zeros((len(targets), rotated.shape[1] + 1), rotated.dtype)
    start = start.at[:, 0].set(prevalence - jnp.mean(prevalence))

    def fit(start, strength):
        problem = (rotated, targets, known, strength)
        point = _newton.minimise(*problem, start, _MULTINOMIAL, max_newton_steps)
        return point, point

    def check(weights, intercept, strength):
        problem = (targets, known, strength)
        return _newton.certificate(features, weights, intercept, *problem, _MULTINOMIAL)

    # Each C from the optimum of the last.
    _, solution = jax.lax.scan(fit, start, C)
    intercept, weights = solution[..., 0], back(solution[..., 1:])
    intercept = intercept - jnp.mean(intercept, -1, keepdims=True)
    return weights, intercept, *jax.vmap(check)(weights, intercept, C)

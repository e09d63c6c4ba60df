"""L2-regularised logistic and multinomial regression, solved to convergence at every C.

Both minimise, as scikit-learn does, f(W, b) = C sum_i loss(W x_i + b, y_i) + |W|^2 / 2 with free
intercepts b, by Newton's method (_newton.py). A larger C regularises less.
"""

from functools import partial
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
    # Where nothing is known, anything finite will do.
    intercept=lambda share: jnp.clip(jax.scipy.special.logit(share), -50, 50),
)
_MULTINOMIAL = _newton.Link(
    chance=lambda logits: jax.nn.softmax(logits, 0),
    loss=lambda logits, target: jax.nn.logsumexp(logits, 0) - jnp.sum(target * logits, 0),
    curvature=lambda chance, v: chance * (v - jnp.sum(chance * v, 0)),
    # What is common to all classes has the penalty alone for a curvature, far from the Hessian's
    # diagonal: left in, it would cost conjugate gradients most of their steps.
    within=lambda move: move - jnp.mean(move, 0),
    intercept=jnp.log,
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
    return _fit(_LOGISTIC, features, targets.T[:, None], C, max_newton_steps)


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
    return _fit(_MULTINOMIAL, features, targets.T[None], C, max_newton_steps)


def _fit(link: _newton.Link, features, targets: Shaped[np.ndarray, "g c n"], C, steps) -> Fit:
    """Fits g groups of c classes, each group on its own, in float64."""
    known = ~np.isnan(targets).any(axis=1)
    with jax.enable_x64(True):
        given = (features, np.where(known[:, None], targets, 0), known, C)
        arrays = [jnp.asarray(part, jnp.float64) for part in given]
        solved = [np.asarray(part) for part in _solve(link, *arrays, jnp.asarray(steps))]
    weights, intercept = solved[0].reshape(len(C), -1, features.shape[1]), solved[1]
    shared = (part.repeat(targets.shape[1], axis=1) for part in solved[2:])
    return Fit(weights, intercept.reshape(len(C), -1), *shared)


@partial(jax.jit, static_argnums=0)
def _solve(
    link: _newton.Link,
    features: Float[Array, "n d"],
    targets: Float[Array, "g c n"],
    known: Float[Array, "g n"],
    C: Float[Array, " s"],
    max_newton_steps: Int[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    rotated, back = _newton.principal_directions(features)

    def start(target, known):
        share = jnp.sum(target, 1) / jnp.maximum(jnp.sum(known), 1)
        return (
            jnp.zeros((len(target), rotated.shape[1] + 1))
            .at[:, 0]
            .set(link.within(link.intercept(share)))
        )

    def fit(start, strength, target, known):
        return _newton.minimise(rotated, target, known, strength, start, link, max_newton_steps)

    def fit_groups(starts, strength):
        points = jax.vmap(fit, (0, None, 0, 0))(starts, strength, targets, known)
        return points, points

    def check(weights, intercept, strength, target, known):
        problem = (target, known, strength)
        return _newton.certificate(features, weights, intercept, *problem, link)

    # Groups side by side; the C one after the other, each from the optimum of the last: side by
    # side all would take as long as the weakest penalty, which takes most steps.
    _, solution = jax.lax.scan(fit_groups, jax.vmap(start)(targets, known), C)
    weights, intercept = back(solution[..., 1:]), jax.vmap(jax.vmap(link.within))(solution[..., 0])
    # The certificate is taken in the original space, so it also covers the change of basis.
    over_groups = jax.vmap(check, (0, 0, None, 0, 0))
    over_strengths = jax.vmap(over_groups, (0, 0, 0, None, None))
    return weights, intercept, *over_strengths(weights, intercept, C, targets, known)

"""L2-regularised multinomial logistic regression solved to convergence, for many strengths at once.

Minimises, as scikit-learn does for three classes or more, f(W, b) = C sum_i -log softmax(W x_i +
b)[y_i] + |W|^2 / 2 with free intercepts b, by Newton's method (newton.py). Of two classes it is
logistic regression at twice the C, with half of its weights, up and down.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from cxr_jax.transfer import _newton


class MultinomialFit(NamedTuple):
    """Optima for s strengths; `gradient_norm` is evaluated at the weights returned.

    Intercepts sum to zero: shifting all of them by one number changes no probability, so the
    objective leaves their sum open. The weights of the classes sum to zero by the penalty.
    """

    weights: Float[np.ndarray, "s k d"]
    intercept: Float[np.ndarray, "s k"]
    gradient_norm: Float[np.ndarray, " s"]
    converged: Bool[np.ndarray, " s"]


_LINK = _newton.Link(
    chance=lambda logits: jax.nn.softmax(logits, 0),
    loss=lambda logits, target: jax.nn.logsumexp(logits, 0) - jnp.sum(target * logits, 0),
    curvature=lambda chance, v: chance * (v - jnp.sum(chance * v, 0)),
    # What is common to all classes has the penalty alone for a curvature, far from the Hessian's
    # diagonal: left in, it would cost conjugate gradients most of their steps.
    within=lambda move: move - jnp.mean(move, 0),
)


def fit_multinomial(
    features: Shaped[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    strengths: Shaped[np.ndarray, " s"],
    max_newton_steps: int = _newton.MAX_STEPS,
) -> MultinomialFit:
    """Fit the k >= 2 classes together at every strength C, in float64.

    A row of targets has one 1 and else 0, or is all NaN: it has no class and does not count. Scale
    the features first. Every class needs a row, else its intercept has no finite optimum. Where the
    steps did not suffice `converged` is False and `gradient_norm` says how far off.
    """
    with jax.enable_x64(True):
        known = ~np.isnan(targets).any(axis=1)
        fit = _fit_all(
            jnp.asarray(features, jnp.float64),
            jnp.asarray(np.where(known[:, None], targets, 0).T, jnp.float64),
            jnp.asarray(known, jnp.float64),
            jnp.asarray(strengths, jnp.float64),
            jnp.asarray(max_newton_steps),
        )
        return MultinomialFit(*(np.asarray(part) for part in fit))


@jax.jit
def _fit_all(
    features: Float[Array, "n d"],
    targets: Float[Array, "k n"],
    known: Float[Array, " n"],
    strengths: Float[Array, " s"],
    max_newton_steps: Int[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    rotated, back = _newton.principal_directions(features)
    # Of the images without class, targets are 0.
    prevalence = jnp.log(jnp.sum(targets, 1)) - jnp.log(jnp.sum(known))
    start = jnp.zeros((len(targets), rotated.shape[1] + 1), rotated.dtype)
    start = start.at[:, 0].set(prevalence - jnp.mean(prevalence))

    def fit(start, strength):
        problem = (rotated, targets, known, strength)
        point = _newton.minimise(*problem, start, _LINK, max_newton_steps)
        return point, point

    def check(weights, intercept, strength):
        problem = (targets, known, strength)
        return _newton.certificate(features, weights, intercept, *problem, _LINK)

    # Each strength from the optimum of the last.
    _, solution = jax.lax.scan(fit, start, strengths)
    intercept, weights = solution[..., 0], back(solution[..., 1:])
    intercept = intercept - jnp.mean(intercept, -1, keepdims=True)
    return weights, intercept, *jax.vmap(check)(weights, intercept, strengths)

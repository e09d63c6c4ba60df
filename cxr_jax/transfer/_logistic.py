"""L2-regularised logistic regression solved to convergence, for many strengths and labels at once.

Minimises, as scikit-learn does, f(w, b) = C sum_i logloss(y_i, w.x_i + b) + |w|^2 / 2 with a free
intercept b, by Newton's method (newton.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from cxr_jax.transfer import _newton


class LogisticFit(NamedTuple):
    """Optima for s strengths and k labels; `gradient_norm` is evaluated at the weights returned."""

    weights: Float[np.ndarray, "s k d"]
    intercept: Float[np.ndarray, "s k"]
    gradient_norm: Float[np.ndarray, "s k"]
    converged: Bool[np.ndarray, "s k"]


# One logit a row: the labels of an image are fitted each on its own.
_LINK = _newton.Link(
    chance=jax.nn.sigmoid,
    loss=lambda logits, target: jnp.sum(jnp.logaddexp(0, logits) - target * logits, 0),
    curvature=lambda chance, v: chance * (1 - chance) * v,
    within=lambda move: move,
)


def fit_logistic(
    features: Shaped[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    strengths: Shaped[np.ndarray, " s"],
    max_newton_steps: int = _newton.MAX_STEPS,
) -> LogisticFit:
    """Fit every label at every strength C (larger C: weaker regularisation), in float64.

    Targets are 0, 1 or NaN (missing: the row does not count for that label). Scale the features
    first. Every label needs both classes, else its intercept has no finite optimum; one that is
    missing everywhere comes back without meaning. Where the steps did not suffice `converged` is
    False and `gradient_norm` says how far off.
    """
    known = ~np.isnan(targets)
    with jax.enable_x64(True):
        fit = _fit_all(
            jnp.asarray(features, jnp.float64),
            jnp.asarray(np.where(known, targets, 0).T, jnp.float64),
            jnp.asarray(known.T, jnp.float64),
            jnp.asarray(strengths, jnp.float64),
            jnp.asarray(max_newton_steps),
        )
        return LogisticFit(*(np.asarray(part) for part in fit))


@jax.jit
def _fit_all(
    features: Float[Array, "n d"],
    targets: Float[Array, "k n"],
    mask: Float[Array, "k n"],
    strengths: Float[Array, " s"],
    max_newton_steps: Int[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    rotated, back = _newton.principal_directions(features)

    def prevalence(target, known):
        share = jnp.sum(known * target) / jnp.maximum(jnp.sum(known), 1)
        # Where nothing is known, anything finite will do.
        return jnp.clip(jax.scipy.special.logit(share), -50, 50)

    def fit(start, strength, target, known):
        problem = (target[None], known, strength)
        return _newton.minimise(rotated, *problem, start[None], _LINK, max_newton_steps)[0]

    def fit_labels(start, strength):
        points = jax.vmap(fit, (0, None, 0, 0))(start, strength, targets, mask)
        return points, points

    def check(weights, intercept, strength, target, known):
        problem = (target[None], known, strength)
        return _newton.certificate(features, weights[None], intercept[None], *problem, _LINK)

    # Labels side by side; strengths one after the other, each from the optimum of the last: side by
    # side all would take as long as the weakest penalty, which takes most steps.
    start = jnp.zeros((len(targets), rotated.shape[1] + 1), rotated.dtype)
    start = start.at[:, 0].set(jax.vmap(prevalence)(targets, mask))
    _, solution = jax.lax.scan(fit_labels, start, strengths)
    intercept, weights = solution[..., 0], back(solution[..., 1:])
    # The certificate is taken in the original space, so it also covers the change of basis.
    over_labels = jax.vmap(check, (0, 0, None, 0, 0))
    over_strengths = jax.vmap(over_labels, (0, 0, 0, None, None))
    return weights, intercept, *over_strengths(weights, intercept, strengths, targets, mask)

"""L2-regularised logistic regression solved to convergence, for many strengths and labels at once.

Minimises, as scikit-learn does, f(w, b) = C sum_i logloss(y_i, w.x_i + b) + |w|^2 / 2 with a free
intercept b. The method is Newton's with the inner system solved by conjugate gradients (Nocedal and
Wright 2006, ch. 7.1), in the basis of the features' principal directions. There the Hessian of a
badly conditioned problem is nearly diagonal, so that its diagonal preconditions well and a few
products with the features replace factoring a d x d matrix for every strength and label. With fewer
rows than features the same basis has n directions: the problem is solved in the space of the rows,
which holds the optimum exactly (Hastie and Tibshirani 2004). Gradients and steps are float64; the
inner systems, which only have to point the right way, are float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

_MAX_NEWTON_STEPS = 100
_MAX_INNER_STEPS = 500
# f is 1-strongly convex in w: the gradient's norm bounds the distance to the optimum.
_GRADIENT_TOLERANCE = 1e-6
_RELATIVE_TOLERANCE = 1e-8
# Optimum found: distance to it below this share of |w|.
_CONVERGED = 1e-5


class LogisticFit(NamedTuple):
    """Optima for s strengths and k labels; `gradient_norm` is evaluated at the weights returned."""

    weights: Float[np.ndarray, "s k d"]
    intercept: Float[np.ndarray, "s k"]
    gradient_norm: Float[np.ndarray, "s k"]
    converged: Bool[np.ndarray, "s k"]


def fit_logistic(
    features: Shaped[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    strengths: Shaped[np.ndarray, " s"],
    max_newton_steps: int = _MAX_NEWTON_STEPS,
) -> LogisticFit:
    """Fit every label at every strength C (larger C: weaker regularisation), in float64.

    Targets are 0, 1 or NaN (missing: the row does not count for that label). Scale the features
    first. Every label needs both classes, else its intercept has no finite optimum. Where the steps
    did not suffice `converged` is False and `gradient_norm` says how far off.
    """
    with jax.enable_x64(True):
        known = ~np.isnan(targets)
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
    rotated, back = _principal_directions(features)

    def fit(strength, target, known):
        return _newton(rotated, target, known, strength, max_newton_steps)

    over_labels = jax.vmap(fit, (None, 0, 0))
    solution = jax.vmap(over_labels, (0, None, None))(strengths, targets, mask)
    intercept, weights = solution[..., 0], back(solution[..., 1:])
    # The certificate is taken in the original space, so it also covers the change of basis.
    logits = weights @ features.T + intercept[..., None]
    residual = strengths[:, None, None] * mask * (jax.nn.sigmoid(logits) - targets)
    gradient = residual @ features + weights
    size = jnp.sqrt(jnp.sum(gradient**2, -1) + jnp.sum(residual, -1) ** 2)
    close = size <= _CONVERGED * jnp.linalg.norm(weights, axis=-1)
    return weights, intercept, size, close | (size <= _RELATIVE_TOLERANCE * strengths[:, None])


def _principal_directions(
    features: Float[Array, "n d"],
) -> tuple[Float[Array, "n r"], Callable[[Float[Array, "s k r"]], Float[Array, "s k d"]]]:
    """Features in the basis of their principal directions, r = min(n, d), and the way back."""
    n, d = features.shape
    if n >= d:
        # Any orthogonal basis near this one serves: eigenvectors in float32 (a quarter of the
        # time), then a Newton-Schulz step, which squares their departure from orthogonality.
        _, rough = jnp.linalg.eigh((features.T @ features).astype(jnp.float32))
        rough = rough.astype(features.dtype)
        basis = 1.5 * rough - 0.5 * rough @ (rough.T @ rough)
        return features @ basis, lambda weights: weights @ basis.T
    squares, rows = jnp.linalg.eigh(features @ features.T)
    # Below the rounding of the Gram matrix a direction is noise: it carries no feature.
    real = squares > n * jnp.finfo(squares.dtype).eps * squares[-1]
    scale = jnp.sqrt(jnp.where(real, squares, 0))
    inverse = jnp.where(real, 1 / jnp.where(real, scale, 1), 0)
    return rows * scale, lambda weights: (weights * inverse) @ rows.T @ features


def _newton(
    features: Float[Array, "n r"],
    target: Float[Array, " n"],
    known: Float[Array, " n"],
    strength: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Float[Array, " r1"]:
    """The optimum (intercept, weights) for one label and strength."""
    single = features.astype(jnp.float32)

    def predict(point):
        return features @ point[1:] + point[0]

    def objective(point, logits):
        losses = known * (jnp.logaddexp(0, logits) - target * logits)
        return strength * jnp.sum(losses) + jnp.sum(point[1:] ** 2) / 2

    def gradient(point, logits):
        residual = strength * known * (jax.nn.sigmoid(logits) - target)
        slope = residual @ features + point[1:]
        return jnp.concatenate([jnp.sum(residual)[None], slope])

    def step(state):
        point, logits, slope, count = state
        chance = jax.nn.sigmoid(logits)
        curvature = strength * known * chance * (1 - chance)

        diagonal = jnp.concatenate(
            [jnp.sum(curvature)[None], curvature @ (features * features) + 1]
        )
        # A saturated intercept must not divide by zero.
        direction = _newton_direction(single, curvature, jnp.maximum(diagonal, 1e-12), slope)
        change = predict(direction)
        now, descent = objective(point, logits), slope @ direction

        def too_long(length):
            """Neither Armijo's condition nor, where rounding hides a decrease, the derivative's."""
            ahead, there = point + length * direction, logits + length * change
            value = objective(ahead, there)
            residual = strength * known * (jax.nn.sigmoid(there) - target)
            derivative = residual @ change + ahead[1:] @ direction[1:]
            decrease = value <= now + 1e-4 * length * descent
            # The approximate Wolfe condition (Hager and Zhang 2005, eq. 2.3).
            flatter = (derivative <= -0.8 * descent) & (value <= now + 1e-10 * jnp.abs(now))
            return ~(decrease | flatter) & (length > 1e-8)

        length = jax.lax.while_loop(too_long, lambda length: length / 2, jnp.ones(()))
        point = point + length * direction
        logits = predict(point)
        return point, logits, gradient(point, logits), count + 1

    origin = jnp.zeros(features.shape[1] + 1)
    steepest = jnp.linalg.norm(gradient(origin, predict(origin)))
    tolerance = jnp.minimum(_GRADIENT_TOLERANCE, _RELATIVE_TOLERANCE * steepest)

    def unfinished(state):
        _, _, slope, count = state
        return (jnp.linalg.norm(slope) > tolerance) & (count < max_steps)

    prevalence = jnp.sum(known * target) / jnp.sum(known)
    start = origin.at[0].set(jax.scipy.special.logit(prevalence))
    logits = predict(start)
    state = (start, logits, gradient(start, logits), 0)
    return jax.lax.while_loop(unfinished, step, state)[0]


def _newton_direction(
    features: Float[Array, "n r"],
    curvature: Float[Array, " n"],
    diagonal: Float[Array, " r1"],
    slope: Float[Array, " r1"],
) -> Float[Array, " r1"]:
    """Solve H direction = -slope by conjugate gradients, preconditioned by H's diagonal.

    Works in the features' precision and stops at a residual that shrinks with the slope: the
    forcing term of superlinear convergence (Nocedal and Wright 2006, eq. 7.3), but not below what
    float32 can reach.
    """
    size = jnp.linalg.norm(slope)
    enough = jnp.clip(jnp.sqrt(size), 0.01, 0.1).astype(features.dtype)
    curvature, diagonal = curvature.astype(features.dtype), diagonal.astype(features.dtype)

    def hessian(direction):
        inner = curvature * (features @ direction[1:] + direction[0])
        return jnp.concatenate([jnp.sum(inner)[None], inner @ features + direction[1:]])

    def unfinished(state):
        _, residual, _, _, count = state
        return (jnp.linalg.norm(residual) > enough) & (count < _MAX_INNER_STEPS)

    def step(state):
        solution, residual, direction, decrease, count = state
        image = hessian(direction)
        length = decrease / (direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        scaled = residual / diagonal
        ahead = residual @ scaled
        return solution, residual, scaled + ahead / decrease * direction, ahead, count + 1

    # Of unit length, so that float32 holds it near the optimum too.
    right = (-slope / size).astype(features.dtype)
    scaled = right / diagonal
    state = (jnp.zeros_like(right), right, scaled, right @ scaled, 0)
    return jax.lax.while_loop(unfinished, step, state)[0].astype(slope.dtype) * size

"""Newton's method for a linear model of logits under an L2 penalty, solved to convergence.

Minimises f(W, b) = C sum_i loss(W x_i + b, y_i) + |W|^2 / 2, intercepts b free, for a convex loss
of the logits, as _regression.py has two. The inner system is solved by conjugate
gradients (Nocedal and Wright 2006, ch. 7.1), in the basis of the features' principal directions.
There the Hessian of a badly conditioned problem is nearly diagonal, so that its diagonal
preconditions well and a few products with the features replace factoring a d x d matrix for every
strength and label. With fewer rows than features the same basis has n directions: the problem is
solved in the space of the rows, which holds the optimum exactly (Hastie and Tibshirani 2004).
Gradients and steps are float64; the inner systems, which only have to point the right way, are
float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MAX_STEPS = 100
_MAX_INNER_STEPS = 500
# f is 1-strongly convex in W: the gradient's norm bounds the distance to the optimum.
_GRADIENT_TOLERANCE = 1e-6
_RELATIVE_TOLERANCE = 1e-8
# Optimum found: distance to it below this share of |W|.
_CONVERGED = 1e-5


class Link(NamedTuple):
    """The functions that turn k logits a row into chances and a loss; arrays [k n], classes first.

    chance: logits -> the chance of each class. loss: (logits, targets in {0, 1}) -> loss of every
    row [n]; its gradient must be chance - target. curvature: (chance, v) -> the loss's Hessian
    times v; its diagonal must be chance (1 - chance). within: the part of a move of the parameters
    [k ...] that changes chances; the optimum lies in what it leaves. intercept: the classes' shares
    of the rows -> logits to start from.
    """

    chance: Callable[[Float[Array, "k n"]], Float[Array, "k n"]]
    loss: Callable[[Float[Array, "k n"], Float[Array, "k n"]], Float[Array, " n"]]
    curvature: Callable[[Float[Array, "k n"], Float[Array, "k n"]], Float[Array, "k n"]]
    within: Callable[[Float[Array, "k *r"]], Float[Array, "k *r"]]
    intercept: Callable[[Float[Array, " k"]], Float[Array, " k"]]


def principal_directions(
    features: Float[Array, "n d"],
) -> tuple[Float[Array, "n r"], Callable[[Float[Array, "... r"]], Float[Array, "... d"]]]:
    """Returns features in the basis of their principal directions, r = min(n, d), and back."""
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


def certificate(
    features: Float[Array, "n d"],
    weights: Float[Array, "k d"],
    intercept: Float[Array, " k"],
    target: Float[Array, "k n"],
    known: Float[Array, " n"],
    strength: Float[Array, ""],
    link: Link,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Returns the gradient's norm at (weights, intercept), and whether that is the optimum."""
    chance = link.chance(weights @ features.T + intercept[:, None])
    residual = strength * known * (chance - target)
    size = jnp.sqrt(jnp.sum((residual @ features + weights) ** 2) + jnp.sum(residual.sum(1) ** 2))
    close = size <= _CONVERGED * jnp.sqrt(jnp.sum(weights**2))
    return size, close | (size <= _RELATIVE_TOLERANCE * strength)


def minimise(
    features: Float[Array, "n r"],
    target: Float[Array, "k n"],
    known: Float[Array, " n"],
    strength: Float[Array, ""],
    start: Float[Array, "k r1"],
    link: Link,
    max_steps: Int[Array, ""],
) -> Float[Array, "k r1"]:
    """Returns the optimum, (intercept, weights) of every class; rows count where `known` is 1.

    Features as `principal_directions` gives them; `start` is a first guess.
    """
    single = features.astype(jnp.float32)

    def predict(point):
        return point[:, 1:] @ features.T + point[:, :1]

    def objective(point, logits):
        losses = known * link.loss(logits, target)
        return strength * jnp.sum(losses) + jnp.sum(point[:, 1:] ** 2) / 2

    def gradient(point, logits):
        residual = strength * known * (link.chance(logits) - target)
        slope = residual @ features + point[:, 1:]
        # What `within` takes away is 0 but for rounding, which no step could lessen.
        return link.within(jnp.concatenate([jnp.sum(residual, 1, keepdims=True), slope], 1))

    def step(state):
        point, logits, slope, count = state
        chance = link.chance(logits)
        weight = strength * known
        curvature = weight * chance * (1 - chance)
        diagonal = jnp.concatenate(
            [jnp.sum(curvature, 1, keepdims=True), curvature @ (features * features) + 1], 1
        )
        # A saturated intercept must not divide by zero.
        diagonal = jnp.maximum(diagonal, 1e-12)
        direction = _newton_direction(single, chance, weight, diagonal, slope, link)
        change = predict(direction)
        now, descent = objective(point, logits), jnp.sum(slope * direction)

        def too_long(length):
            """Neither Armijo's condition nor, where rounding hides a decrease, the derivative's."""
            ahead, there = point + length * direction, logits + length * change
            value = objective(ahead, there)
            residual = strength * known * (link.chance(there) - target)
            derivative = jnp.sum(residual * change) + jnp.sum(ahead[:, 1:] * direction[:, 1:])
            decrease = value <= now + 1e-4 * length * descent
            # The approximate Wolfe condition (Hager and Zhang 2005, eq. 2.3).
            flatter = (derivative <= -0.8 * descent) & (value <= now + 1e-10 * jnp.abs(now))
            return ~(decrease | flatter) & (length > 1e-8)

        length = jax.lax.while_loop(too_long, lambda length: length / 2, jnp.ones(()))
        point = point + length * direction
        logits = predict(point)
        return point, logits, gradient(point, logits), count + 1

    origin = jnp.zeros_like(start)
    steepest = _size(gradient(origin, predict(origin)))
    tolerance = jnp.minimum(_GRADIENT_TOLERANCE, _RELATIVE_TOLERANCE * steepest)

    def unfinished(state):
        _, _, slope, count = state
        return (_size(slope) > tolerance) & (count < max_steps)

    logits = predict(start)
    return jax.lax.while_loop(unfinished, step, (start, logits, gradient(start, logits), 0))[0]


def _newton_direction(
    features: Float[Array, "n r"],
    chance: Float[Array, "k n"],
    weight: Float[Array, " n"],
    diagonal: Float[Array, "k r1"],
    slope: Float[Array, "k r1"],
    link: Link,
) -> Float[Array, "k r1"]:
    """Solves H direction = -slope by conjugate gradients, preconditioned by H's diagonal.

    Works in the features' precision and stops at a residual that shrinks with the slope: the
    forcing term of superlinear convergence (Nocedal and Wright 2006, eq. 7.3), but not below what
    float32 can reach.
    """
    size = _size(slope)
    enough = jnp.clip(jnp.sqrt(size), 0.01, 0.1).astype(features.dtype)
    chance, weight, diagonal = (x.astype(features.dtype) for x in (chance, weight, diagonal))

    def hessian(direction):
        logits = direction[:, 1:] @ features.T + direction[:, :1]
        inner = weight * link.curvature(chance, logits)
        slope = inner @ features + direction[:, 1:]
        return jnp.concatenate([jnp.sum(inner, 1, keepdims=True), slope], 1)

    def unfinished(state):
        _, residual, _, decrease, count = state
        # A decrease of 0: what is left of the residual is rounding, and no step could lessen it.
        return (_size(residual) > enough) & (decrease > 0) & (count < _MAX_INNER_STEPS)

    def step(state):
        solution, residual, direction, decrease, count = state
        image = hessian(direction)
        length = decrease / jnp.sum(direction * image)
        solution = solution + length * direction
        # Rounding adds what `within` takes away, which grows unseen where C is large.
        residual = link.within(residual - length * image)
        scaled = link.within(residual / diagonal)
        ahead = jnp.sum(residual * scaled)
        return solution, residual, scaled + ahead / decrease * direction, ahead, count + 1

    # Of unit length, so that float32 holds it near the optimum too.
    right = (-slope / size).astype(features.dtype)
    scaled = link.within(right / diagonal)
    state = (jnp.zeros_like(right), right, scaled, jnp.sum(right * scaled), 0)
    return jax.lax.while_loop(unfinished, step, state)[0].astype(slope.dtype) * size


def _size(point: Float[Array, "k r1"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(point * point))

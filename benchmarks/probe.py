"""How fast are the probes? `python -m benchmarks.probe` prints them beside scikit-learn.

A label budget of a benchmark: 14 labels of 3 to 30 % of images, 11 values of C, 3 draws of 2,000
training images of 512 features. The rival is the loop that most code has, one LogisticRegression
after another, with the solver that was fastest here of those that reach the tolerance
(newton-cholesky). It is timed on a few of the same problems, spread over labels and draws, and
scaled.
"""

import os
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cxr_jax.transfer._regression import Fit, fit_logistic


class Problems(NamedTuple):
    """Standardised features [g n d] and targets [g n k] of g draws, and the values of C [s]."""

    features: Float[np.ndarray, "g n d"]
    targets: Float[np.ndarray, "g n k"]
    C: Float[np.ndarray, " s"]


def invent(draws: int, rows: int, width: int, labels: int, seed: int = 0) -> Problems:
    """Features as pooled ones are: not negative, their spectrum falling by decades."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.logspace(0, -2.5, width)[:, None]
    features = np.maximum(rng.normal(size=(draws, rows, width)) @ mixing + 0.5, 0)
    features -= features.mean(axis=1, keepdims=True)
    features /= features.std(axis=1, keepdims=True)
    logits = features @ rng.normal(size=(width, labels))
    noisy = logits / logits.std() + rng.logistic(size=logits.shape)
    shares = np.linspace(0.03, 0.3, labels)
    rare = [np.quantile(noisy[..., k], 1 - share) for k, share in enumerate(shares)]
    return Problems(features, (noisy > rare).astype(float), 10.0 ** np.arange(-6, 5))


def one_by_one(problems: Problems, chosen: Sequence[tuple[int, int]]) -> Float[np.ndarray, "c s d"]:
    """Weights by scikit-learn for the chosen (draw, label), at every C."""
    from sklearn.linear_model import LogisticRegression

    found = []
    for draw, label in chosen:
        features, target = problems.features[draw], problems.targets[draw, :, label]
        for C in problems.C:
            model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-8, max_iter=200)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # rounding before tol: `apart` decides
                found.append(model.fit(features, target).coef_[0])
    return np.array(found).reshape(len(chosen), len(problems.C), -1)


def measure(problems: Problems, num_timed: int) -> dict[str, Any]:
    """Seconds for all problems by each way, and how far the weights lie apart, as a share.

    Ours: best of two after the compilation, which is given apart. scikit-learn: `num_timed` of the
    pairs of draw and label, each at every C, scaled.
    """
    _, first = _timed(lambda: _every(problems))
    (fits, seconds), again = (_timed(lambda: _every(problems)) for _ in range(2))
    draws, labels = len(problems.features), problems.targets.shape[2]
    chosen = [(i % draws, i * labels // num_timed) for i in range(num_timed)]
    weights, taken = _timed(lambda: one_by_one(problems, chosen))
    ours = min(seconds, again[1])
    return {
        "ours": ours,
        "compilation": max(first - ours, 0.0),
        "loop": taken * draws * labels / num_timed,
        "apart": _apart(fits, weights, chosen),
        "gradient": float(max(fit.gradient_norm.max() for fit in fits)),
    }


def _every(problems: Problems) -> list[Fit]:
    return [
        fit_logistic(features, targets, problems.C)
        for features, targets in zip(problems.features, problems.targets)
    ]


def _apart(fits: list[Fit], weights: Float[np.ndarray, "c s d"], chosen) -> float:
    mine = np.array([fits[draw].weights[:, label] for draw, label in chosen])
    size = np.linalg.norm(weights, axis=-1)
    return float(np.max(np.linalg.norm(mine - weights, axis=-1) / size))


def _timed(work) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main() -> None:
    problems, num_timed = invent(draws=3, rows=2000, width=512, labels=14), 3
    found = measure(problems, num_timed)
    draws, rows, width = problems.features.shape
    labels, values = problems.targets.shape[2], len(problems.C)
    print(
        f"{draws} draws x {labels} labels x {values} values of C on {rows:,} images of {width} "
        f"features; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; scikit-learn timed "
        f"on {num_timed * values} of {draws * labels * values} problems and scaled"
    )
    ours, loop = found["ours"], found["loop"]
    print(f"{'':34} {'seconds':>8} {'times ours':>11}")
    print(f"{'cxr_jax, labels together':34} {ours:8.2f} {1:11.1f}")
    print(f"{'(its compilation, once a shape)':34} {found['compilation']:8.2f}")
    print(f"{'LogisticRegression, one by one':34} {loop:8.2f} {loop / ours:11.1f}")
    print(
        f"In words: {loop / ours:.0f} times less time than the scikit-learn loop on this machine. "
        f"The weights lie apart by at most {found['apart']:.0e} of their length; the gradient at "
        f"ours is at most {found['gradient']:.0e}, which bounds their distance to the optimum."
    )


if __name__ == "__main__":
    main()

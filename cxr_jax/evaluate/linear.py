"""Linear probe: logistic regression on frozen features, its strength chosen on validation.

Features are standardised with the train images' mean and standard deviation; each label's strength
is the one with the best validation AUROC; the test images are scored once, with that one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from cxr_jax.evaluate.logistic import LogisticFit, fit_logistic
from cxr_jax.evaluate.protocol import (
    Head,
    Protocol,
    Result,
    Splits,
    Tools,
    positive_numbers,
    usable_labels,
)
from cxr_jax.fields import Section
from cxr_jax.stats.auroc import auroc
from cxr_jax.weights.encoder import Encoder

# A standard deviation below this share of the mean is the rounding of a constant feature.
_CONSTANT = 1e-6


def make(config: Section) -> Protocol:
    """The protocol "linear"; of the config it reads `strengths`."""
    strengths = positive_numbers(config, "strengths")

    def run(encoder: Encoder, splits: Splits, tools: Tools) -> Result:
        train, validation, test = (tools.extract(name) for name in Splits._fields)
        names = splits.test.label_names
        probe = linear_probe(
            (train, splits.train.targets),
            (validation, splits.validation.targets),
            test,
            strengths,
            names,
        )
        chosen = {name: float(probe.strength[k]) for k, name in enumerate(names) if probe.scored[k]}
        return Result(
            scores=probe.scores,
            scored=probe.scored,
            not_scored=probe.not_scored,
            notes=probe.notes,
            remarks=(),
            summary=f"{train.shape[1]} features at {encoder.image_size} px; C chosen: "
            + ", ".join(f"{name} {strength:g}" for name, strength in chosen.items()),
            facts={"features": train.shape[1], "strength": chosen},
            score_kind="log-odds",
            head=Head(encoder, probe.kernel, probe.bias),
        )

    listed = ", ".join(f"{strength:g}" for strength in strengths)
    method = (
        "Frozen features in evaluation mode, standardised on the training films; logistic "
        f"regression with an L2 penalty, its strength C chosen per label on validation among "
        f"{listed}; the same for every encoder.",
    )
    return Protocol("Linear probe", method, {"strengths": list(strengths)}, run)


class ProbeResult(NamedTuple):
    """What the probe found for m test images, k labels and s strengths (ascending).

    `scores` are log-odds, `features @ kernel + bias`: probabilities near 1 would round to ties. A
    label that could not be fitted or chosen has NaN in all of these and in strength and validation
    AUROC, is False in `scored`, and has
    its reason in `not_scored` (by label index). `notes` holds, by label index, what a reader should
    know of a scored label: a strength on the edge of the grid, a fit that did not converge.
    """

    scores: Float[np.ndarray, "m k"]
    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    strength: Float[np.ndarray, " k"]
    validation_auroc: Float[np.ndarray, "s k"]
    strengths: Float[np.ndarray, " s"]
    gradient_norm: Float[np.ndarray, "s k"]
    scored: Bool[np.ndarray, " k"]
    not_scored: dict[int, str]
    notes: dict[int, str]


def linear_probe(
    train: tuple[Shaped[np.ndarray, "n d"], Shaped[np.ndarray, "n k"]],
    validation: tuple[Shaped[np.ndarray, "v d"], Shaped[np.ndarray, "v k"]],
    test_features: Shaped[np.ndarray, "m d"],
    strengths: tuple[float, ...],
    label_names: tuple[str, ...] = (),
) -> ProbeResult:
    """Fit on train (features, targets), choose each label's strength on validation, score test.

    Targets are 0, 1 or NaN (missing). Ties in validation AUROC go to the smaller validation
    log-loss, then to the stronger regularisation. A label with one class only in train or in
    validation is not scored, with its reason. Raises ValueError, naming the split and the row, for
    features that are not finite, other targets, and shapes that do not agree; naming the reasons,
    if no label at all can be scored.
    """
    grid = np.unique(np.asarray(strengths, np.float64))
    if not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        raise ValueError(f"strengths are {list(strengths)}: give positive numbers (C)")
    num_labels = train[1].shape[1]
    for name, features, targets in (("train", *train), ("validation", *validation)):
        if targets.shape != (len(features), num_labels):
            raise ValueError(
                f"{name}: targets have shape {targets.shape}, expected {len(features)} rows (the "
                f"features') and {num_labels} labels (train's)"
            )
    labels, not_scored = usable_labels(train[1], validation[1], label_names)
    (fitted, checked, tested), mean, scale = _standardised(train[0], validation[0], test_features)
    fit = fit_logistic(fitted, train[1][:, labels].astype(np.float64), grid)

    shape = (len(grid), num_labels)
    validation_auroc, gradient_norm = np.full(shape, np.nan), np.full(shape, np.nan)
    gradient_norm[:, labels] = fit.gradient_norm
    strength = np.full(num_labels, np.nan)
    scores = np.full((len(tested), num_labels), np.nan)
    kernel, bias = np.full((len(mean), num_labels), np.nan), np.full(num_labels, np.nan)
    notes = {}
    for column, k in enumerate(labels):
        logits = fit.weights[:, column] @ checked.T + fit.intercept[:, column, None]
        target = validation[1][:, k].astype(np.float64)
        validation_auroc[:, k] = [auroc(target, row) for row in logits]
        known = ~np.isnan(target)
        losses = np.logaddexp(0, logits[:, known]) - target[known] * logits[:, known]
        # Sorted by the last key first; the grid ascends, so the smaller C is the stronger.
        best = int(np.lexsort((grid, losses.mean(axis=1), -validation_auroc[:, k]))[0])
        strength[k] = grid[best]
        scores[:, k] = tested @ fit.weights[best, column] + fit.intercept[best, column]
        kernel[:, k] = scale * fit.weights[best, column]
        bias[k] = fit.intercept[best, column] - mean @ kernel[:, k]
        if note := _note(grid, best, fit, column):
            notes[int(k)] = note
    return ProbeResult(
        scores=scores,
        kernel=kernel,
        bias=bias,
        strength=strength,
        validation_auroc=validation_auroc,
        strengths=grid,
        gradient_norm=gradient_norm,
        scored=np.isin(np.arange(num_labels), labels),
        not_scored=not_scored,
        notes=notes,
    )


def _standardised(
    train: Shaped[np.ndarray, "n d"],
    validation: Shaped[np.ndarray, "v d"],
    test: Shaped[np.ndarray, "m d"],
) -> tuple[tuple[Float[np.ndarray, "..."], ...], Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Features less train's mean, times scale: 1 / its standard deviation, 0 if it is constant.

    Returns the three splits, mean and scale.
    """
    splits = []
    for name, features in (("train", train), ("validation", validation), ("test", test)):
        features = np.asarray(features, np.float64)
        bad = np.argwhere(~np.isfinite(features))
        if bad.size:
            row, column = bad[0]
            raise ValueError(
                f"{name} features, row {row}, feature {column}: {features[row, column]}; the "
                "encoder's features must be finite"
            )
        splits.append(features)
    mean, deviation = splits[0].mean(axis=0), splits[0].std(axis=0)
    constant = deviation <= _CONSTANT * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    return tuple((features - mean) * scale for features in splits), mean, scale


def _note(grid: Float[np.ndarray, " s"], best: int, fit: LogisticFit, column: int) -> str | None:
    notes = []
    if len(grid) > 1 and best in (0, len(grid) - 1):
        end = "weakest" if best else "strongest"
        notes.append(f"chosen strength {grid[best]:g} is the {end} regularisation tried")
    off = np.flatnonzero(~fit.converged[:, column])
    if off.size:
        worst = off[np.argmax(fit.gradient_norm[off, column])]
        size = fit.gradient_norm[worst, column]
        notes.append(f"fit at strength {grid[worst]:g} did not converge (gradient norm {size:.1e})")
    return "; ".join(notes) or None

"""The numbers of a linear probe: fit on train, choose strengths on validation, score test.

Features are standardised with the train images' mean and standard deviation; each label's strength
is the one with the best validation AUROC; the test images are scored once, with that one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer._logistic import fit_logistic
from cxr_jax.transfer._multinomial import fit_multinomial
from cxr_jax.transfer._protocol import targets_of, usable_classes, usable_labels

# A standard deviation below this share of the mean is the rounding of a constant feature.
_CONSTANT = 1e-6
# For fewer it takes longer to compile a program than to fit.
_LEAST_ROWS = 256


class ProbeResult(NamedTuple):
    """What the probe found for m test images, k labels and s strengths (ascending).

    `scores` are log-odds, `features @ kernel + bias`: probabilities near 1 would round to ties. Of
    exclusive classes they are log-probabilities, the log-softmax of that over the scored classes. A
    label that could not be fitted or chosen has NaN in all of these and in strength and validation
    AUROC, is False in `scored`, and has its reason in `not_scored` (by label index). `notes` holds,
    by label index, what a reader should know of a scored label: a strength on the edge of the grid,
    a fit that did not converge; of exclusive classes that stands in `remarks`.
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
    remarks: tuple[str, ...]


def linear_probe(
    train: tuple[Shaped[np.ndarray, "n d"], Shaped[np.ndarray, "n k"]],
    validation: tuple[Shaped[np.ndarray, "v d"], Shaped[np.ndarray, "v k"]],
    test_features: Shaped[np.ndarray, "m d"],
    strengths: Sequence[float],
    label_names: tuple[str, ...] = (),
    exclusive: bool = False,
) -> ProbeResult:
    """Fit on train (features, targets), choose each label's strength on validation, score test.

    Targets are 0, 1 or NaN (missing); of exclusive classes they must be as data/labels.py's
    to_exclusive gives them, and one strength is chosen for all, by the mean of the classes' AUROC.
    Ties in validation AUROC go to the smaller validation log-loss, then to the stronger
    regularisation. A label with one class only in train or in validation is not scored, with its
    reason. Raises ValueError, naming the split and the row, for features that are not finite, other
    targets, and shapes that do not agree; naming the reasons, if no label at all can be scored.
    """
    rows = np.arange(len(train[0]))
    (probe,) = linear_probes(
        train, [rows], validation, test_features, strengths, label_names, exclusive
    )
    return probe


def linear_probes(
    train: tuple[Shaped[np.ndarray, "n d"], Shaped[np.ndarray, "n k"]],
    subsets: Sequence[Int[np.ndarray, "..."]],
    validation: tuple[Shaped[np.ndarray, "v d"], Shaped[np.ndarray, "v k"]],
    test_features: Shaped[np.ndarray, "m d"],
    strengths: Sequence[float],
    label_names: tuple[str, ...] = (),
    exclusive: bool = False,
) -> list[ProbeResult]:
    """`linear_probe` of several subsets of the training rows: label fractions, seeds.

    Each has its own standardisation, its own choice of strength and the result that it has alone.
    One compiled program serves subsets of like size, and every encoder of as many features. Raises
    as `linear_probe`, for the first subset at fault.
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
    for name, features in (("train", train[0]), ("validation", validation[0])):
        _check_finite(name, features)
    _check_finite("test", test_features)
    usable = usable_classes if exclusive else usable_labels
    found = [usable(train[1][rows], validation[1], label_names) for rows in subsets]
    judge = _Judge(
        np.asarray(validation[0], np.float64),
        np.asarray(validation[1], np.float64),
        np.asarray(test_features, np.float64),
        grid,
        exclusive,
    )
    probes = []
    for rows, (labels, not_scored) in zip(subsets, found, strict=True):
        standard = _standardised(train[0][rows])
        fit = _fit(standard.features, train[1][rows], grid, labels, exclusive)
        probes.append(judge.choose(standard, fit, labels, not_scored))
    return probes


class _Fit(NamedTuple):
    """Of one subset, for the u labels that are scored, on standardised features."""

    weights: Float[np.ndarray, "s u d"]
    intercept: Float[np.ndarray, "s u"]
    gradient_norm: Float[np.ndarray, "s u"]
    converged: Bool[np.ndarray, "s u"]


def _fit(
    features: Float[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    grid: Float[np.ndarray, " s"],
    labels: Int[np.ndarray, " u"],
    exclusive: bool,
) -> _Fit:
    """One subset. Rows of zeros without targets are added, which change no fit."""
    size = _padded(len(features))
    padded = np.zeros((size, features.shape[1]))
    padded[: len(features)] = features
    # Labels that cannot be used are left in without targets: subsets of a split share a shape.
    known = np.full((size, len(labels) if exclusive else targets.shape[1]), np.nan)
    columns = slice(None) if exclusive else labels
    known[: len(features), columns] = targets_of(targets, labels, exclusive)
    if not exclusive:
        return _Fit(*(part[:, labels] for part in fit_logistic(padded, known, grid)))
    fit = fit_multinomial(padded, known, grid)
    per_label = [np.repeat(part[:, None], len(labels), 1) for part in fit[2:]]
    return _Fit(fit.weights, fit.intercept, *per_label)


def _padded(size: int) -> int:
    """Eight sizes from each power of two to the next: one compiled program serves many subsets."""
    step = max(1 << max(size.bit_length() - 4, 0), _LEAST_ROWS)
    return -(-size // step) * step


class _Standard(NamedTuple):
    """features: less `mean`, times `scale`: 1 / their standard deviation, 0 if it is constant."""

    features: Float[np.ndarray, "n d"]
    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]


def _standardised(features: Shaped[np.ndarray, "n d"]) -> _Standard:
    features = np.array(features, np.float64)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    constant = deviation <= _CONSTANT * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    features -= mean
    features *= scale
    return _Standard(features, mean, scale)


def _check_finite(name: str, features: Shaped[np.ndarray, "n d"]) -> None:
    if np.isfinite(features).all():
        return
    row, column = np.argwhere(~np.isfinite(features))[0]
    raise ValueError(
        f"{name} features, row {row}, feature {column}: {features[row, column]}; the encoder's "
        "features must be finite"
    )


class _Judge(NamedTuple):
    """What every subset's fits are chosen and scored on."""

    validation: Float[np.ndarray, "v d"]
    targets: Float[np.ndarray, "v k"]
    test: Float[np.ndarray, "m d"]
    grid: Float[np.ndarray, " s"]
    exclusive: bool

    def choose(
        self,
        standard: _Standard,
        fit: _Fit,
        labels: Int[np.ndarray, " u"],
        not_scored: dict[int, str],
    ) -> ProbeResult:
        grid, num_labels = self.grid, self.targets.shape[1]
        # In the features' own units, so that nothing else has to be standardised.
        kernels = standard.scale * fit.weights
        biases = fit.intercept - kernels @ standard.mean
        flat = kernels.reshape(-1, kernels.shape[-1])
        logits = (flat @ self.validation.T).reshape(*biases.shape, -1) + biases[..., None]
        found, losses = self._found(logits, labels)
        validation_auroc, gradient_norm = np.full((2, len(grid), num_labels), np.nan)
        validation_auroc[:, labels], gradient_norm[:, labels] = found, fit.gradient_norm
        strength, bias = np.full((2, num_labels), np.nan)
        kernel = np.full((len(standard.mean), num_labels), np.nan)
        notes = {}
        if self.exclusive:  # one strength for all
            found = np.repeat(found.mean(axis=1, keepdims=True), len(labels), 1)
        for column, k in enumerate(labels):
            # Sorted by the last key first; the grid ascends, so the smaller C is the stronger.
            best = int(np.lexsort((grid, losses[:, column], -found[:, column]))[0])
            strength[k] = grid[best]
            kernel[:, k], bias[k] = kernels[best, column], biases[best, column]
            if note := _note(grid, best, fit, column):
                notes[int(k)] = note
        scores = np.full((len(self.test), num_labels), np.nan)
        scores[:, labels] = self.test @ kernel[:, labels] + bias[labels]
        remarks = ()
        if self.exclusive:
            scores[:, labels] = scipy.special.log_softmax(scores[:, labels], axis=1)
            # The classes share strengths and fits, hence notes.
            remarks, notes = tuple(f"The {note}." for note in list(notes.values())[:1]), {}
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
            remarks=remarks,
        )

    def _found(
        self, logits: Float[np.ndarray, "s u v"], labels: Int[np.ndarray, " u"]
    ) -> tuple[Float[np.ndarray, "s u"], Float[np.ndarray, "s u"]]:
        """AUROC and mean log-loss of every strength and label."""
        targets = targets_of(self.targets, labels, self.exclusive)
        known = ~np.isnan(targets)
        if self.exclusive:
            logits = scipy.special.log_softmax(logits, axis=1)
            cells = np.where(known, targets, 0).T * -logits
            losses = cells.sum(axis=(1, 2)) / known[:, 0].sum()
            losses = np.repeat(losses[:, None], len(labels), 1)
        else:
            cells = np.logaddexp(0, logits) - np.where(known, targets, 0).T * logits
            losses = (cells * known.T).sum(axis=2) / known.sum(axis=0)
        found = [[auroc(t, row) for t, row in zip(targets.T, rows)] for rows in logits]
        return np.array(found), losses


def _note(grid: Float[np.ndarray, " s"], best: int, fit: _Fit, column: int) -> str | None:
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

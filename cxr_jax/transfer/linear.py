"""Linear probe: regression on frozen features, its C chosen on validation.

Features are standardised with the training images' mean and standard deviation; each label's C is
the one with the best validation AUROC; the test images are scored once, with that one. Exclusive
classes are fitted together, by multinomial regression of one C.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from cxr_jax.config import Section
from cxr_jax.stats.auroc import auroc
from cxr_jax.transfer._protocol import (
    Head,
    Protocol,
    Result,
    Splits,
    Tools,
    against,
    positive_numbers,
    targets_of,
    usable_classes,
    usable_labels,
)
from cxr_jax.transfer._regression import Fit, fit_logistic, fit_multinomial
from cxr_jax.weights.encoder import Encoder

# A standard deviation below this share of the mean is the rounding of a constant feature.
_CONSTANT = 1e-6
# For fewer it takes longer to compile a program than to fit.
_LEAST_ROWS = 256


def make(config: Section) -> Protocol:
    """Returns the protocol "linear"; of the config it reads `C`."""
    grid = positive_numbers(config, "C")

    def run(encoder: Encoder, splits: Splits, tools: Tools) -> Result:
        (result,) = run_many(encoder, splits, [np.arange(len(splits.train.rows))], tools)
        return result

    def run_many(
        encoder: Encoder, splits: Splits, subsets: Sequence[Int[np.ndarray, "..."]], tools: Tools
    ) -> list[Result]:
        train, validation, test = (tools.extract(name) for name in Splits._fields)
        probes = linear_probes(
            (train, splits.train.targets),
            subsets,
            (validation, splits.validation.targets),
            test,
            grid,
            splits.test.label_names,
            splits.test.task.exclusive,
        )
        return [_result(probe, encoder, splits) for probe in probes]

    listed = ", ".join(f"{value:g}" for value in grid)

    def method(exclusive: bool) -> tuple[str, ...]:
        kind, per = ("multinomial logistic", "once") if exclusive else ("logistic", "per label")
        return (
            f"Frozen features in evaluation mode, standardised on the training images; {kind} "
            f"regression with an L2 penalty, its strength C chosen {per} on validation among "
            f"{listed}; the same for every encoder.",
            *against(exclusive),
        )

    # The keys of settings and facts are those of older results, which are taken up again.
    return Protocol("Linear probe", method, {"strengths": list(grid)}, run, run_many)


def _result(probe: "Probe", encoder: Encoder, splits: Splits) -> Result:
    names, exclusive = splits.test.label_names, splits.test.task.exclusive
    chosen = {name: float(probe.C[k]) for k, name in enumerate(names) if probe.scored[k]}
    listed = [f"{name} {value:g}" for name, value in chosen.items()]
    if exclusive:
        listed = [f"{next(iter(chosen.values())):g}"]
    width = len(probe.kernel)
    return Result(
        scores=probe.scores,
        scored=probe.scored,
        not_scored=probe.not_scored,
        notes=probe.notes,
        remarks=probe.remarks,
        summary=f"{width} features at {encoder.image_size} px; C chosen: {', '.join(listed)}",
        facts={"features": width, "strength": chosen},
        score_kind="log-probability" if exclusive else "log-odds",
        head=Head(encoder, probe.kernel, probe.bias),
    )


class Probe(NamedTuple):
    """The probe of m test images, d features, k labels and the s values of C tried (ascending).

    `scores` are log-odds, `features @ kernel + bias`: probabilities near 1 would round to ties. Of
    exclusive classes they are log-probabilities, the log-softmax of that over the scored classes.
    A label that could not be fitted or chosen has NaN in all arrays, is False in `scored`, and has
    its reason in `not_scored` (by label index). `notes` holds, by label index, what a reader should
    know of a scored label: a C on the edge of the grid, a fit that did not converge; of exclusive
    classes that is in `remarks`.
    """

    scores: Float[np.ndarray, "m k"]
    kernel: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    C: Float[np.ndarray, " k"]
    validation_auroc: Float[np.ndarray, "s k"]
    grid: Float[np.ndarray, " s"]
    gradient_norm: Float[np.ndarray, "s k"]
    scored: Bool[np.ndarray, " k"]
    not_scored: dict[int, str]
    notes: dict[int, str]
    remarks: tuple[str, ...]


def linear_probes(
    train: tuple[Shaped[np.ndarray, "n d"], Shaped[np.ndarray, "n k"]],
    subsets: Sequence[Int[np.ndarray, "..."]],
    validation: tuple[Shaped[np.ndarray, "v d"], Shaped[np.ndarray, "v k"]],
    test_features: Shaped[np.ndarray, "m d"],
    C: Sequence[float],
    label_names: tuple[str, ...] = (),
    exclusive: bool = False,
) -> list[Probe]:
    """Fits each subset of the rows of train (features, targets), chooses C, scores test.

    The subsets are label fractions and seeds: each has its own standardisation, its own choice of C
    and the result that it has alone. One compiled program serves subsets of like size.

    Targets are 0, 1 or NaN (missing); of exclusive classes they must be as data/tasks.py's
    to_exclusive gives them, and one C is chosen for all, by the mean of the classes' AUROC. Ties in
    validation AUROC go to the smaller validation log-loss, then to the smaller C. A label with one
    class only in train or in validation is not scored, with its reason. Raises ValueError, naming
    the split and the row, for features that are not finite, other targets, and shapes that do not
    agree; naming the reasons, if no label at all can be scored.
    """
    grid = np.unique(np.asarray(C, np.float64))
    if not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        raise ValueError(f"C is {list(C)}: give positive numbers")
    num_labels = train[1].shape[1]
    for name, features, targets in (("train", *train), ("validation", *validation)):
        if targets.shape != (len(features), num_labels):
            raise ValueError(
                f"{name}: targets have shape {targets.shape}, expected {len(features)} rows (the "
                f"features') and {num_labels} labels (train's)"
            )
    for name, features in zip(Splits._fields, (train[0], validation[0], test_features)):
        if not np.isfinite(features).all():
            row, column = np.argwhere(~np.isfinite(features))[0]
            raise ValueError(
                f"{name} features, row {row}, feature {column}: {features[row, column]}; the "
                "encoder's features must be finite"
            )
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


def linear_probe(train, validation, test_features, C, label_names=(), exclusive=False) -> Probe:
    """Returns the probe of all rows of train; arguments and errors as in `linear_probes`."""
    given = (validation, test_features, C, label_names, exclusive)
    return linear_probes(train, [np.arange(len(train[0]))], *given)[0]


def _fit(
    features: Float[np.ndarray, "n d"],
    targets: Shaped[np.ndarray, "n k"],
    grid: Float[np.ndarray, " s"],
    labels: Int[np.ndarray, " u"],
    exclusive: bool,
) -> Fit:
    """Fits one subset's u scored labels. Rows of zeros without targets are added: of no effect."""
    size = _padded(len(features))
    padded = np.zeros((size, features.shape[1]))
    padded[: len(features)] = features
    # Labels that cannot be used are left in without targets: subsets of a split share a shape.
    known = np.full((size, len(labels) if exclusive else targets.shape[1]), np.nan)
    columns = slice(None) if exclusive else labels
    known[: len(features), columns] = targets_of(targets, labels, exclusive)
    if exclusive:
        return fit_multinomial(padded, known, grid)
    return Fit(*(part[:, labels] for part in fit_logistic(padded, known, grid)))


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


class _Judge(NamedTuple):
    """What every subset's fits are chosen and scored on."""

    validation: Float[np.ndarray, "v d"]
    targets: Float[np.ndarray, "v k"]
    test: Float[np.ndarray, "m d"]
    grid: Float[np.ndarray, " s"]
    exclusive: bool

    def choose(
        self, standard: _Standard, fit: Fit, labels: Int[np.ndarray, " u"], reasons: dict[int, str]
    ) -> Probe:
        grid, num_labels = self.grid, self.targets.shape[1]
        # In the features' own units, so that nothing else has to be standardised.
        kernels = standard.scale * fit.weights
        biases = fit.intercept - kernels @ standard.mean
        flat = kernels.reshape(-1, kernels.shape[-1])
        logits = (flat @ self.validation.T).reshape(*biases.shape, -1) + biases[..., None]
        found, losses = self._found(logits, labels)
        validation_auroc, gradient_norm = np.full((2, len(grid), num_labels), np.nan)
        validation_auroc[:, labels], gradient_norm[:, labels] = found, fit.gradient_norm
        chosen, bias = np.full((2, num_labels), np.nan)
        kernel = np.full((len(standard.mean), num_labels), np.nan)
        notes = {}
        if self.exclusive:  # one C for all
            found = np.repeat(found.mean(axis=1, keepdims=True), len(labels), 1)
        for column, k in enumerate(labels):
            # Sorted by the last key first; the grid ascends.
            best = int(np.lexsort((grid, losses[:, column], -found[:, column]))[0])
            chosen[k] = grid[best]
            kernel[:, k], bias[k] = kernels[best, column], biases[best, column]
            if note := _note(grid, best, fit, column):
                notes[int(k)] = note
        scores = np.full((len(self.test), num_labels), np.nan)
        scores[:, labels] = self.test @ kernel[:, labels] + bias[labels]
        remarks = ()
        if self.exclusive:
            scores[:, labels] = scipy.special.log_softmax(scores[:, labels], axis=1)
            # The classes share C and fits, hence notes.
            remarks, notes = tuple(f"The {note}." for note in list(notes.values())[:1]), {}
        scored = np.isin(np.arange(num_labels), labels)
        tried = (chosen, validation_auroc, grid, gradient_norm)
        return Probe(scores, kernel, bias, *tried, scored, reasons, notes, remarks)

    def _found(
        self, logits: Float[np.ndarray, "s u v"], labels: Int[np.ndarray, " u"]
    ) -> tuple[Float[np.ndarray, "s u"], Float[np.ndarray, "s u"]]:
        """Returns AUROC and mean log-loss of every C and label."""
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


def _note(grid: Float[np.ndarray, " s"], best: int, fit: Fit, column: int) -> str | None:
    notes = []
    if len(grid) > 1 and best in (0, len(grid) - 1):
        end = "weakest" if best else "strongest"
        notes.append(f"chosen C {grid[best]:g} is the {end} regularisation tried")
    off = np.flatnonzero(~fit.converged[:, column])
    if off.size:
        worst = off[np.argmax(fit.gradient_norm[off, column])]
        size = fit.gradient_norm[worst, column]
        notes.append(f"fit at C {grid[worst]:g} did not converge (gradient norm {size:.1e})")
    return "; ".join(notes) or None

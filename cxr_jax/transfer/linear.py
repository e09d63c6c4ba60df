"""Linear probe: regression on frozen features, its C chosen on validation.

Features are standardised with the training images' mean and standard deviation, which need no
labels: few labelled images are joined by others of the training split, or noise of both is what a
probe reads. Each label's C is the one with the best validation AUROC; the test images are scored
once, with that one. Exclusive classes are fitted together, by multinomial regression of one C.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from cxr_jax.config import Section
from cxr_jax.stats.bootstrap import label_auroc
from cxr_jax.transfer._protocol import (
    ENOUGH,
    Head,
    Protocol,
    Result,
    Splits,
    Tools,
    against,
    at_labels,
    positive_numbers,
    stand_ins,
    targets_of,
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
        every = np.arange(len(splits.train.rows))
        few = len(every) < ENOUGH and len(splits.train.rest)
        others = tools.extract("unlabelled") if few else None
        (result,) = measure(encoder, splits, [every], [others], tools)
        return result

    def run_many(
        encoder: Encoder, splits: Splits, subsets: Sequence[Int[np.ndarray, "..."]], tools: Tools
    ) -> list[Result]:
        train, whole, others = tools.extract("train"), splits.train.rows, []
        for rows in subsets:
            rest = stand_ins(len(rows), np.delete(whole, rows))
            others.append(train[np.searchsorted(whole, rest)] if len(rest) else None)
        return measure(encoder, splits, subsets, others, tools)

    def measure(
        encoder: Encoder,
        splits: Splits,
        subsets: Sequence[Int[np.ndarray, "..."]],
        others: Sequence[Shaped[np.ndarray, "_ d"] | None],
        tools: Tools,
    ) -> list[Result]:
        train, validation, test = (tools.extract(name) for name in Splits._fields)
        names, exclusive = splits.test.label_names, splits.test.task.exclusive
        given = (train, splits.train.targets), subsets, (validation, splits.validation.targets)
        results = []
        for probe in linear_probes(*given, test, grid, names, exclusive, others):
            chosen = {names[k]: float(probe.C[k]) for k in np.flatnonzero(probe.scored)}
            listed = [f"{name} {value:g}" for name, value in chosen.items()]
            if exclusive:  # one C for all
                listed = [f"{next(iter(chosen.values())):g}"]
            width = len(probe.kernel)
            told = f"{width} features at {encoder.image_size} px; C chosen: {', '.join(listed)}"
            result = Result(
                scores=probe.scores,
                not_scored=probe.not_scored,
                summary=told,
                facts={"features": width, "strength": chosen},
                score_kind="log-probability" if exclusive else "log-odds",
                head=Head(encoder, probe.kernel, probe.bias),
                notes=probe.notes,
                remarks=probe.remarks,
            )
            results.append(result)
        return results

    tried = ", ".join(f"{value:g}" for value in grid)

    def method(exclusive: bool) -> tuple[str, ...]:
        kind, per = ("multinomial logistic", "once") if exclusive else ("logistic", "per label")
        return (
            "Frozen features in evaluation mode, standardised on the training images (where fewer "
            f"than {ENOUGH:,} are labelled, joined by others of the training split); {kind} "
            f"regression with an L2 penalty, its strength C chosen {per} on validation among "
            f"{tried}; the same for every encoder.",
            *against(exclusive),
        )

    # The keys of settings and facts are those of older results, which are taken up again.
    settings = {"strengths": list(grid), "standardised on": ENOUGH}
    return Protocol("Linear probe", method, settings, run, run_many)


class Probe(NamedTuple):
    """The probe of m test images, d features, k labels and s values of C tried (ascending).

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
    not_scored: dict[int, str]
    notes: dict[int, str]
    remarks: tuple[str, ...]

    @property
    def scored(self) -> Bool[np.ndarray, " k"]:
        return ~np.isnan(self.C)


def linear_probes(
    train: tuple[Shaped[np.ndarray, "n d"], Shaped[np.ndarray, "n k"]],
    subsets: Sequence[Int[np.ndarray, "..."]],
    validation: tuple[Shaped[np.ndarray, "v d"], Shaped[np.ndarray, "v k"]],
    test_features: Shaped[np.ndarray, "m d"],
    C: Sequence[float],
    label_names: tuple[str, ...] = (),
    exclusive: bool = False,
    others: Sequence[Shaped[np.ndarray, "_ d"] | None] = (),
) -> list[Probe]:
    """Fits each subset of the rows of train (features, targets), chooses C, scores test.

    The subsets are label fractions and seeds: each has its own standardisation, on its images and
    on `others` of its place if there are any, its own choice of C and the result that it has alone.
    One compiled program serves subsets of like size.

    Targets are 0, 1 or NaN (missing); of exclusive classes they must be as data/tasks.py's
    to_exclusive gives them, and one C is chosen for all, by the mean of the classes' AUROC. Ties in
    validation AUROC go to the smaller validation log-loss, then the smaller C. Raises ValueError,
    naming the split and the row, for features that are not finite, other targets, and shapes that
    do not agree; naming the reasons, if no label at all can be scored.
    """
    grid = np.array(positive_numbers({"C": tuple(C)}, "C"), np.float64)
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
    found = [
        usable_labels(train[1][rows], validation[1], label_names, exclusive) for rows in subsets
    ]
    judged, targets, test = (np.asarray(a, np.float64) for a in (*validation, test_features))
    probes = []
    others = others or [None] * len(subsets)
    for rows, unlabelled, (labels, not_scored) in zip(subsets, others, found, strict=True):
        features, mean, scale = _standardised(train[0][rows], unlabelled)
        fit = _fit(features, train[1][rows], grid, labels, exclusive)
        # In the features' own units, so that nothing else has to be standardised.
        kernels = scale * fit.weights
        fit = fit._replace(weights=kernels, intercept=fit.intercept - kernels @ mean)
        flat = kernels.reshape(-1, kernels.shape[-1])
        logits = (flat @ judged.T).reshape(*fit.intercept.shape, -1) + fit.intercept[..., None]
        wanted = targets_of(targets, labels, exclusive)
        aurocs, losses = _aurocs_and_losses(logits, wanted, exclusive)
        # One C for all exclusive classes. Ties stay in the order of the grid, which ascends.
        shared = np.repeat(aurocs.mean(axis=1, keepdims=True), len(labels), 1)
        best = np.lexsort((losses, -(shared if exclusive else aurocs)), axis=0)[0]
        notes, remarks = _notes(grid, best, fit, labels), ()
        if exclusive:  # the classes share C and fits, hence notes
            notes, remarks = {}, tuple(f"The {note}." for note in list(notes.values())[:1])
        places = (best, np.arange(len(labels)))
        kernel = at_labels(fit.weights[places].T, labels, num_labels)
        bias = at_labels(fit.intercept[places], labels, num_labels)
        scores = test @ kernel[:, labels] + bias[labels]
        if exclusive:
            scores = scipy.special.log_softmax(scores, axis=1)
        probes.append(
            Probe(
                at_labels(scores, labels, num_labels),
                kernel,
                bias,
                at_labels(grid[best], labels, num_labels),
                at_labels(aurocs, labels, num_labels),
                not_scored,
                notes,
                remarks,
            )
        )
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
    # Eight sizes from each power of two to the next: one compiled program serves many subsets.
    step = max(1 << max(len(features).bit_length() - 4, 0), _LEAST_ROWS)
    size = -(-len(features) // step) * step
    padded = np.zeros((size, features.shape[1]))
    padded[: len(features)] = features
    # Labels that cannot be used are left in without targets: subsets of a split share a shape.
    known = np.full((size, len(labels) if exclusive else targets.shape[1]), np.nan)
    columns = slice(None) if exclusive else labels
    known[: len(features), columns] = targets_of(targets, labels, exclusive)
    if exclusive:
        return fit_multinomial(padded, known, grid)
    return Fit(*(part[:, labels] for part in fit_logistic(padded, known, grid)))


def _standardised(
    features: Shaped[np.ndarray, "n d"], others: Shaped[np.ndarray, "_ d"] | None
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Returns (features - mean) * scale, mean, scale: 1 / standard deviation, 0 of a constant."""
    features = np.array(features, np.float64)
    of = features if others is None else np.concatenate([features, others])
    mean, deviation = of.mean(axis=0), of.std(axis=0)
    constant = deviation <= _CONSTANT * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    features -= mean
    features *= scale
    return features, mean, scale


def _aurocs_and_losses(
    logits: Float[np.ndarray, "s u v"], targets: Float[np.ndarray, "v u"], exclusive: bool
) -> tuple[Float[np.ndarray, "s u"], Float[np.ndarray, "s u"]]:
    """Returns AUROC and mean log-loss of every C and label on validation."""
    known = ~np.isnan(targets)
    if exclusive:
        logits = scipy.special.log_softmax(logits, axis=1)
        cells = np.where(known, targets, 0).T * -logits
        losses = cells.sum(axis=(1, 2)) / known[:, 0].sum()
        losses = np.repeat(losses[:, None], targets.shape[1], 1)
    else:
        cells = np.logaddexp(0, logits) - np.where(known, targets, 0).T * logits
        losses = (cells * known.T).sum(axis=2) / known.sum(axis=0)
    return np.array([label_auroc(targets, rows.T) for rows in logits]), losses


def _notes(
    grid: Float[np.ndarray, " s"],
    best: Int[np.ndarray, " u"],
    fit: Fit,
    labels: Int[np.ndarray, " u"],
) -> dict[int, str]:
    """Returns, by label index, what a reader should know of the C chosen and of the fits."""
    found = {}
    for column, (label, place) in enumerate(zip(labels, best)):
        notes = []
        if len(grid) > 1 and place in (0, len(grid) - 1):
            end = "weakest" if place else "strongest"
            notes.append(f"chosen C {grid[place]:g} is the {end} regularisation tried")
        off = np.flatnonzero(~fit.converged[:, column])
        if off.size:
            worst = off[np.argmax(fit.gradient_norm[off, column])]
            size = fit.gradient_norm[worst, column]
            notes.append(f"fit at C {grid[worst]:g} did not converge (gradient norm {size:.1e})")
        if notes:
            found[int(label)] = "; ".join(notes)
    return found

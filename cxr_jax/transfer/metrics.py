"""Rows of numbers for metrics.json and comparisons.json, from predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_jax.stats.auroc import average_precision
from cxr_jax.stats.bootstrap import AUROC, MEAN, Interval, bootstrap_auroc
from cxr_jax.stats.delong import delong_interval, delong_test
from cxr_jax.stats.verdict import Comparison, compare_auroc
from cxr_jax.transfer.predictions import MEASURES, Predictions, align, validate

_NUMBERS = ("auroc", "low", "high", "average_precision", "delong_low", "delong_high")


def metric_rows(
    predictions: Predictions | Sequence[Predictions],
    num_resamples: int = 1000,
    seed: int = 0,
    not_scored: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Returns one row per label, then one called "macro", as metrics.json holds them.

    Of scores that are measures (`predictions.MEASURES`): the rows of `_mean_rows`. Of others:

    A row has "label", "n_pos", "n_neg", "auroc", "low", "high" (95 % interval, patients resampled),
    "average_precision", "delong_low", "delong_high" (DeLong's 95 % interval of the AUROC, patients
    as clusters) and, where there is something to know, "note". A label that cannot be estimated
    (`bootstrap_auroc`) stays in with null (None) numbers and its reason. The macro row is the mean
    over the labels that can be estimated, and its counts are sums over them; DeLong gives no
    interval of a mean of several. `not_scored` names labels that the model could not be trained
    for, with the reason: they become rows too. Of out-of-fold scores every row says so, under
    "cross_validation"; average precision is then the mean over folds, and DeLong gives nothing.

    Several predictions are of several pretrainings of one recipe: numbers are means over them,
    intervals hold the variance between them, and DeLong gives nothing.
    """
    every = aligned(predictions)
    if every[0].score_kind in MEASURES:
        return _mean_rows(every, num_resamples, seed, not_scored or {})
    _, patients, names, targets, _, _, fold = every[0]
    scores = [one.scores for one in every]
    macro = bootstrap_auroc(targets, scores, patients, num_resamples, seed, fold=fold)
    rows = []
    for k, (name, column, interval) in enumerate(zip(names, targets.T, macro.labels)):
        counts = {"n_pos": int((column == 1).sum()), "n_neg": int((column == 0).sum())}
        precision = float(np.mean([_mean_precision(column, one[:, k], fold) for one in scores]))
        limits = None, None
        if fold is None and len(scores) == 1:
            limits = delong_interval(column, scores[0][:, k], patients)[2:]
        others = precision, *limits
        rows.append({"label": name, **counts, **_numbers(interval, *others)})
    estimable = [row for row in rows if row["auroc"] is not None]
    for name, reason in (not_scored or {}).items():
        blank = dict.fromkeys(("n_pos", "n_neg", *_NUMBERS))
        rows.append({"label": name, **blank, "note": f"not scored: {reason}"})
    total = {key: sum(row[key] for row in estimable) for key in ("n_pos", "n_neg")}
    means = [None] * 3
    if len(estimable) == 1:
        means = [estimable[0][key] for key in _NUMBERS[3:]]
    elif estimable:
        means[0] = np.mean([row["average_precision"] for row in estimable])
    mean = {"label": "macro", **total, **_numbers(macro, *means)}
    if 0 < len(estimable) < len(rows):
        note = f"mean over {len(estimable)} of {len(rows)} labels"
        mean["note"] = "; ".join(filter(None, (note, mean.get("note"))))
    rows.append(mean)
    if fold is not None:
        for row in rows:
            row["cross_validation"] = (
                f"{len(np.unique(fold))}-fold cross-validated by patient, {len(fold):,} images"
            )
    return rows


def aligned(predictions: Predictions | Sequence[Predictions]) -> list[Predictions]:
    """Returns one model's predictions, or each pretraining's in the order of the first's images."""
    every = [predictions] if isinstance(predictions, Predictions) else predictions
    first, *others = (validate(one) for one in every)
    return [first, *(align(first, other) for other in others)]


def _mean_rows(
    predictions: Sequence[Predictions], num_resamples: int, seed: int, not_scored: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Returns a row per label, and "macro": the mean over the images that count, whose target is 1.

    A row has "label", "n_pos", "n_neg", "measure" (its name), "mean", "low", "high" (95 %) and
    perhaps "note"; that of Dice also "iou", "iou_low", "iou_high", which follow image by image.
    """
    _, patients, names, targets, _, kind, _ = predictions[0]
    scores = [one.scores for one in predictions]
    others = {"": scores} | ({"iou_": [s / (2 - s) for s in scores]} if kind == "dice" else {})
    found = {
        prefix: bootstrap_auroc(targets, each, patients, num_resamples, seed, measure=MEAN)
        for prefix, each in others.items()
    }

    def row(label: str, counts: Mapping[str, int | None], intervals: Mapping[str, Interval | None]):
        fields = {"label": label, **counts, "measure": MEASURES[kind]}
        for prefix, one in intervals.items():
            limits = (one.estimate, one.low, one.high) if one else (None,) * 3
            names = (prefix.strip("_") or "mean", f"{prefix}low", f"{prefix}high")
            fields |= dict(zip(names, map(_number, limits)))
        note = intervals[""].note if intervals[""] else ""
        return fields | ({"note": note} if note else {})

    rows = []
    for k, name in enumerate(names):
        counts = {
            "n_pos": int((targets[:, k] == 1).sum()),
            "n_neg": int((targets[:, k] == 0).sum()),
        }
        rows.append(row(name, counts, {prefix: one.labels[k] for prefix, one in found.items()}))
    known = [one for one in rows if one["mean"] is not None]
    for name, reason in not_scored.items():
        blank = row(name, dict.fromkeys(("n_pos", "n_neg")), dict.fromkeys(found))
        rows.append(blank | {"note": f"not scored: {reason}"})
    total = {key: sum(one[key] for one in known) for key in ("n_pos", "n_neg")}
    mean = row("macro", total, found)
    if 0 < len(known) < len(rows):
        note = f"mean over {len(known)} of {len(rows)} labels"
        mean["note"] = "; ".join(filter(None, (note, mean.get("note"))))
    return [*rows, mean]


def _mean_precision(targets: np.ndarray, scores: np.ndarray, fold: np.ndarray | None) -> float:
    """Returns average precision; of folds the mean over those that hold both classes."""
    if fold is None:
        return average_precision(targets, scores)
    found = [average_precision(targets[fold == n], scores[fold == n]) for n in np.unique(fold)]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _numbers(interval: Interval, *others: float | None) -> dict[str, Any]:
    """Returns the last fields of a label's row, or the macro's; `others` are the last numbers."""
    numbers = dict(zip(_NUMBERS, map(_number, (*interval[:3], *others)), strict=True))
    if interval.shortage:
        numbers = dict.fromkeys(_NUMBERS)
    return numbers | ({"note": interval.note} if interval.note else {})


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def compare(
    a: Predictions | Sequence[Predictions],
    b: Predictions | Sequence[Predictions],
    names: tuple[str, str] = ("a", "b"),
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares the AUROC of a and b on the same test images, by a paired patient bootstrap.

    Of scores that are measures: their means, "mean_a", "mean_b", and "measure", its name. Several
    predictions are of several pretrainings of one recipe, as in `metric_rows`.

    Keys: "a" and "b" (the names), then of the macro mean "auroc_a", "auroc_b", "difference", "low",
    "high" (95 % interval), "p_value", "detectable", "margin", "num_resamples" (used),
    "num_excluded" and "verdict" as stats/verdict.py defines them, "delong_p" (of DeLong's test with
    patients as clusters; None for a mean of several labels and out-of-fold scores), and "labels": a
    list of such rows, each with "label", for every label that can be estimated. None in place of
    numbers, and the verdict "not estimable", where no label can be. Raises ValueError, naming image
    or label, as `align` does.
    """
    every_a = aligned(a)
    every_b = [align(every_a[0], one) for one in aligned(b)]
    a, b, several = every_a[0], every_b[0], len(every_a) + len(every_b) > 2
    scores = [[one.scores for one in every] for every in (every_a, every_b)]
    both, folds = (a.targets, *scores, a.patient_id), (a.fold, b.fold)
    if a.score_kind != b.score_kind and MEASURES.keys() & {a.score_kind, b.score_kind}:
        raise ValueError(f"scores of {names[0]} and {names[1]} are of different kinds")
    whole = compare_auroc(*both, num_resamples, seed, folds=folds, measure=a.measure)
    rows = []
    for k, label in enumerate(whole.labels):
        if not np.isnan(label.difference):
            columns = (a.targets[:, k], a.scores[:, k], b.scores[:, k])
            p_value = None
            if a.fold is None and b.fold is None and a.measure is AUROC and not several:
                p_value = _number(delong_test(*columns, a.patient_id).p_value)
            rows.append({"label": a.label_names[k], **_compared(label, p_value, a.score_kind)})
    p_value = rows[0]["delong_p"] if len(rows) == 1 else None
    found = _compared(whole, p_value, a.score_kind)
    return {"a": names[0], "b": names[1], **found, "labels": rows}


def _compared(comparison: Comparison, delong_p: float | None, kind: str) -> dict[str, Any]:
    fields = ("auroc_a", "auroc_b", "difference", "low", "high", "p_value", "detectable", "margin")
    numbers = {field: _number(getattr(comparison, field)) for field in fields}
    counts = {name: getattr(comparison, name) for name in ("num_resamples", "num_excluded")}
    found = numbers | counts | {"verdict": comparison.verdict, "delong_p": delong_p}
    if kind not in MEASURES:
        return found
    means = {f"mean_{which}": found.pop(f"auroc_{which}") for which in "ab"}
    return {"measure": MEASURES[kind]} | means | found

"""From predictions to rows of numbers that JSON can hold: AUROC with intervals, and comparisons."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cxr_jax.stats.bootstrap import Interval, bootstrap_auroc
from cxr_jax.stats.verdict import Comparison, compare_auroc
from cxr_jax.transfer.predictions import Predictions, align, validate

# Below this share of usable resamples the interval is of a selected sample, and the row says so.
_FEW_RESAMPLES = 0.9


def metric_rows(
    predictions: Predictions,
    num_resamples: int = 1000,
    seed: int = 0,
    not_scored: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row per label, then one called "macro", as metrics.json holds them.

    A row has "label", "n_pos", "n_neg", "auroc", "low", "high" (95 % interval, patients resampled)
    and, where there is something to know, "note". A label that cannot be estimated stays in with
    null (None) numbers and its reason. The macro row is the mean over the labels that can be
    estimated, and its counts are sums over them. `not_scored` names labels that the model could not
    be trained for, with the reason: they become rows too.
    """
    _, patients, names, targets, scores, _ = validate(predictions)
    macro = bootstrap_auroc(targets, scores, patients, num_resamples, seed)
    rows = []
    for name, column, interval in zip(names, targets.T, macro.labels):
        counts = {"n_pos": int((column == 1).sum()), "n_neg": int((column == 0).sum())}
        rows.append(_row(name, counts, interval))
    estimable = [row for row in rows if row["auroc"] is not None]
    for name, reason in (not_scored or {}).items():
        unknown = {"n_pos": None, "n_neg": None}
        rows.append(_empty(name, unknown, f"not scored: {reason}"))
    total = {key: sum(row[key] for row in estimable) for key in ("n_pos", "n_neg")}
    if not estimable:
        return [*rows, _empty("macro", total, "not estimable: no label can be estimated")]
    mean = _row("macro", total, macro)
    if len(estimable) < len(rows):
        note = f"mean over {len(estimable)} of {len(rows)} labels"
        mean["note"] = "; ".join(filter(None, (note, mean.get("note"))))
    return [*rows, mean]


def _empty(name: str, counts: dict[str, int | None], note: str) -> dict[str, Any]:
    return {"label": name, **counts, "auroc": None, "low": None, "high": None, "note": note}


def _row(name: str, counts: dict[str, int], interval: Interval) -> dict[str, Any]:
    absent = [what for what, n in zip(("positives", "negatives"), counts.values()) if not n]
    if absent:
        why = f"not estimable: no {' and no '.join(absent)} in the test set"
        return _empty(name, counts, why)
    row = {"label": name, **counts, "auroc": interval.estimate}
    row |= {"low": _number(interval.low), "high": _number(interval.high)}
    total = interval.num_resamples + interval.num_excluded
    if not interval.num_resamples:
        return row | {"note": "no interval: no resample of test patients holds both classes"}
    if interval.num_resamples < _FEW_RESAMPLES * total:
        return row | {
            "note": f"interval from {interval.num_resamples} of {total} resamples; in the others "
            "a class is absent"
        }
    if interval.estimate == 1 and interval.low == 1:
        return row | {"note": "perfect separation: resampling cannot show the uncertainty"}
    return row


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def compare(
    a: Predictions,
    b: Predictions,
    names: tuple[str, str] = ("a", "b"),
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """AUROC of a less that of b on the same test images, with a paired patient bootstrap.

    Keys: "a" and "b" (the names), then of the macro mean "auroc_a", "auroc_b", "difference", "low",
    "high" (95 % interval), "p_value", "detectable", "margin" and "verdict" as stats/verdict.py
    defines them, and "labels": a list of such rows, each with "label", for every label that can be
    estimated. None in place of numbers, and the verdict "not estimable", where no label has both
    classes. Raises ValueError, naming image or label, as `align` does.
    """
    a = validate(a)
    b = align(a, validate(b))
    whole = compare_auroc(a.targets, a.scores, b.scores, a.patient_id, num_resamples, seed)
    rows = [
        {"label": name, **_compared(label)}
        for name, label in zip(a.label_names, whole.labels)
        if not np.isnan(label.difference)
    ]
    return {"a": names[0], "b": names[1], **_compared(whole), "labels": rows}


def _compared(comparison: Comparison) -> dict[str, Any]:
    fields = ("auroc_a", "auroc_b", "difference", "low", "high", "p_value", "detectable", "margin")
    numbers = {field: _number(getattr(comparison, field)) for field in fields}
    return numbers | {"verdict": comparison.verdict}

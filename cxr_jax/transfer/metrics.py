"""Rows of numbers for metrics.json and comparisons.json, from predictions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cxr_jax.stats.auroc import average_precision
from cxr_jax.stats.bootstrap import Interval, bootstrap_auroc
from cxr_jax.stats.delong import delong_interval, delong_test
from cxr_jax.stats.verdict import Comparison, compare_auroc
from cxr_jax.transfer.predictions import Predictions, align, validate

# Below this share of usable resamples the interval is of a selected sample, and the row says so.
_FEW_RESAMPLES = 0.9
_NUMBERS = ("auroc", "low", "high", "average_precision", "delong_low", "delong_high")


def metric_rows(
    predictions: Predictions,
    num_resamples: int = 1000,
    seed: int = 0,
    not_scored: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Returns one row per label, then one called "macro", as metrics.json holds them.

    A row has "label", "n_pos", "n_neg", "auroc", "low", "high" (95 % interval, patients resampled),
    "average_precision", "delong_low", "delong_high" (DeLong's 95 % interval of the AUROC, patients
    as clusters) and, where there is something to know, "note". A label that cannot be estimated
    stays in with null (None) numbers and its reason. The macro row is the mean over the labels that
    can be estimated, and its counts are sums over them; DeLong gives no interval of a mean of
    several. `not_scored` names labels that the model could not be trained for, with the reason:
    they become rows too.
    """
    _, patients, names, targets, scores, _ = validate(predictions)
    macro = bootstrap_auroc(targets, scores, patients, num_resamples, seed)
    rows = []
    for name, column, score, interval in zip(names, targets.T, scores.T, macro.labels):
        counts = {"n_pos": int((column == 1).sum()), "n_neg": int((column == 0).sum())}
        delong = delong_interval(column, score, patients)[2:]
        rows.append(_row(name, counts, interval, average_precision(column, score), *delong))
    estimable = [row for row in rows if row["auroc"] is not None]
    for name, reason in (not_scored or {}).items():
        unknown = {"n_pos": None, "n_neg": None}
        rows.append(_empty(name, unknown, f"not scored: {reason}"))
    total = {key: sum(row[key] for row in estimable) for key in ("n_pos", "n_neg")}
    if not estimable:
        return [*rows, _empty("macro", total, "not estimable: no label can be estimated")]
    precision = np.mean([row["average_precision"] for row in estimable])
    delong = [estimable[0][key] for key in _NUMBERS[4:]] if len(estimable) == 1 else [None, None]
    mean = _row("macro", total, macro, precision, *delong)
    if len(estimable) < len(rows):
        note = f"mean over {len(estimable)} of {len(rows)} labels"
        mean["note"] = "; ".join(filter(None, (note, mean.get("note"))))
    return [*rows, mean]


def _empty(name: str, counts: dict[str, int | None], note: str) -> dict[str, Any]:
    return {"label": name, **counts, **dict.fromkeys(_NUMBERS), "note": note}


def _row(
    name: str, counts: dict[str, int], interval: Interval, *others: float | None
) -> dict[str, Any]:
    """Returns the row of a label, or of the macro; `others` are the last of _NUMBERS."""
    absent = [what for what, n in zip(("positives", "negatives"), counts.values()) if not n]
    if absent:
        why = f"not estimable: no {' and no '.join(absent)} in the test set"
        return _empty(name, counts, why)
    numbers = map(_number, (interval.estimate, interval.low, interval.high, *others))
    row = {"label": name, **counts, **dict(zip(_NUMBERS, numbers, strict=True))}
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


def _number(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def compare(
    a: Predictions,
    b: Predictions,
    names: tuple[str, str] = ("a", "b"),
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares the AUROC of a and b on the same test images, by a paired patient bootstrap.

    Keys: "a" and "b" (the names), then of the macro mean "auroc_a", "auroc_b", "difference", "low",
    "high" (95 % interval), "p_value", "detectable", "margin" and "verdict" as stats/verdict.py
    defines them, "delong_p" (of DeLong's test with patients as clusters; None for a mean of several
    labels), and "labels": a list of such rows, each with "label", for every label that can be
    estimated. None in place of numbers, and the verdict "not estimable", where no label has both
    classes. Raises ValueError, naming image or label, as `align` does.
    """
    a = validate(a)
    b = align(a, validate(b))
    whole = compare_auroc(a.targets, a.scores, b.scores, a.patient_id, num_resamples, seed)
    rows = []
    for k, label in enumerate(whole.labels):
        if not np.isnan(label.difference):
            columns = (a.targets[:, k], a.scores[:, k], b.scores[:, k])
            p_value = _number(delong_test(*columns, a.patient_id).p_value)
            rows.append({"label": a.label_names[k], **_compared(label, p_value)})
    p_value = rows[0]["delong_p"] if len(rows) == 1 else None
    return {"a": names[0], "b": names[1], **_compared(whole, p_value), "labels": rows}


def _compared(comparison: Comparison, delong_p: float | None) -> dict[str, Any]:
    fields = ("auroc_a", "auroc_b", "difference", "low", "high", "p_value", "detectable", "margin")
    numbers = {field: _number(getattr(comparison, field)) for field in fields}
    return numbers | {"verdict": comparison.verdict, "delong_p": delong_p}

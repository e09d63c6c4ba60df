"""Markdown tables of AUROC and of comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any


def number(value: float | None) -> str:
    """Three decimals without the leading zero, as AUROC is printed; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def with_interval(row: Mapping[str, Any]) -> str:
    """ ".912 [.889, .931]" of a metric row; without limits the number alone."""
    if row["auroc"] is None or row["low"] is None:
        return number(row["auroc"])
    return f"{number(row['auroc'])} [{number(row['low'])}, {number(row['high'])}]"


def signed(value: float | None) -> str:
    """As `number`, with its sign; the sign of what rounds to zero is kept, it decides verdicts."""
    if value is None:
        return "–"
    return ("+" if value >= 0 else "−") + number(abs(value))


def with_signs(row: Mapping[str, Any]) -> str:
    """ "+.069 [+.051, +.088]" of a comparison; without limits the difference alone."""
    if row["difference"] is None or row["low"] is None:
        return signed(row["difference"])
    return f"{signed(row['difference'])} [{signed(row['low'])}, {signed(row['high'])}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells must not hold line breaks."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def auroc_table(runs: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> str:
    """Labels by runs; `runs` are (name, metric rows). Counts are those of the first run."""
    by_name = [(name, {row["label"]: row for row in rows}) for name, rows in runs]
    body = []
    for row in shown(runs[0][1]):
        label = "**mean (macro)**" if row["label"] == "macro" else row["label"]
        # Sums over labels would look like a number of images.
        counts = [_count(row[n]) if row["label"] != "macro" else "" for n in ("n_pos", "n_neg")]
        cells = [
            with_interval(rows[row["label"]]) if row["label"] in rows else "–"
            for _, rows in by_name
        ]
        body.append([label, *counts, *cells])
    return markdown(["label", "positive", "negative", *(name for name, _ in by_name)], body)


def shown(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The rows to show: the mean of a single label would only repeat it."""
    return rows[:-1] if len(rows) == 2 else rows


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def comparison_table(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Each comparison's mean AUROCs, their paired difference A - B, and the verdict on A."""
    body = [
        [
            row["a"],
            row["b"],
            number(row["auroc_a"]),
            number(row["auroc_b"]),
            with_signs(row),
            row["verdict"],
            number(row["detectable"]),
        ]
        for row in comparisons
    ]
    header = ["A", "B", "AUROC of A", "AUROC of B", "A − B [95 % interval]", "A against B"]
    header.append("could be found from")
    return markdown(header, body)


def difference_table(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Paired differences label by label, a column for each comparison (all of the same A)."""
    labels = [row["label"] for row in comparisons[0]["labels"]]
    by_comparison = [{row["label"]: row for row in c["labels"]} for c in comparisons]
    body = [
        [label, *(with_signs(rows[label]) if label in rows else "–" for rows in by_comparison)]
        for label in labels
    ]
    return markdown(["label", *(f"less {c['b']}" for c in comparisons)], body)

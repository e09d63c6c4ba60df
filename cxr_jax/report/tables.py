"""Markdown tables of AUROC and of comparisons."""

from collections.abc import Sequence
from typing import Any


def number(value: float | None) -> str:
    """Three decimals without the leading zero, as AUROC is printed; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def with_interval(row: dict[str, Any]) -> str:
    if row["auroc"] is None or row["low"] is None:
        return number(row["auroc"])
    return f"{number(row['auroc'])} [{number(row['low'])}, {number(row['high'])}]"


def signed(value: float | None) -> str:
    if value is None:
        return "–"
    return ("+" if value >= 0 else "−") + number(abs(value))


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
        counts = [_count(row["n_pos"]), _count(row["n_neg"])]
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


def comparison_table(comparisons: Sequence[dict[str, Any]]) -> str:
    """A less B in macro AUROC, paired on the same test films."""
    body = [
        [
            row["a"],
            row["b"],
            signed(row["difference"]),
            f"{signed(row['low'])} to {signed(row['high'])}",
            row["verdict"],
        ]
        for row in comparisons
    ]
    return markdown(["A", "B", "A − B", "95 % interval", "A against B"], body)

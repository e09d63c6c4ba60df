"""report.md of one transfer: the verdict in words, then tables, pictures and how it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.evaluate.predictions import Predictions
from cxr_jax.report import figures, tables


class Run(NamedTuple):
    """One encoder's result: its metric rows and the predictions that they come from."""

    name: str
    predictions: Predictions
    rows: Sequence[dict[str, Any]]


def write_report(
    workdir: Path,
    title: str,
    runs: Sequence[Run],
    comparisons: Sequence[dict[str, Any]],
    protocol: Sequence[str],
    notes: Sequence[str],
    provenance: Mapping[str, str],
) -> Path:
    """Writes report.md, auroc.png and roc.png into `workdir`; returns the path of report.md.

    The first run is the encoder in question, the others its baselines. `protocol` and `notes` are
    sentences, each a line of a list. No image or patient id is written.
    """
    named = [(run.name, run.rows) for run in runs]
    figures.forest(workdir / "auroc.png", named)
    common = [
        name
        for name in runs[0].predictions.label_names
        if all(name in run.predictions.label_names for run in runs)
        and _estimable(runs[0].rows, name)
    ]
    curves = []
    if common:
        drawn = figures.roc(
            workdir / "roc.png", [(run.name, run.predictions) for run in runs], common
        )
        which = "" if len(drawn) == len(common) else f" of the first {len(drawn)} labels"
        curves = [f"## ROC{which}", "![ROC curves](roc.png)"]
    parts = [
        f"# {title}",
        *(verdict(comparison) for comparison in comparisons),
        "![AUROC with intervals](auroc.png)",
        "## AUROC",
        tables.auroc_table(named),
        *(["## Comparisons", tables.comparison_table(comparisons)] if comparisons else []),
        *curves,
        "## How it was measured",
        _list(protocol),
        *(["## To know", _list(notes)] if notes else []),
        "## Provenance",
        tables.markdown(["", ""], list(provenance.items())),
    ]
    path = workdir / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def verdict(comparison: Mapping[str, Any]) -> str:
    """The comparison in one sentence of plain words, Markdown."""
    a, b = comparison["a"], comparison["b"]
    if comparison["low"] is None:
        return f"**Not estimable: {a} against {b}.** No label has both classes in the test set."
    numbers = (
        f"macro AUROC {tables.number(comparison['auroc_a'])} against "
        f"{tables.number(comparison['auroc_b'])}, difference "
        f"{tables.signed(comparison['difference'])} (95 % interval "
        f"{tables.signed(comparison['low'])} to {tables.signed(comparison['high'])})"
    )
    if comparison["low"] > 0:
        return f"**{a} beats {b}:** {numbers}."
    if comparison["high"] < 0:
        return f"**{a} is worse than {b}:** {numbers}."
    return f"**The data cannot tell {a} from {b}:** {numbers}; the interval includes no difference."


def _estimable(rows: Sequence[dict[str, Any]], label: str) -> bool:
    return any(row["label"] == label and row["auroc"] is not None for row in rows)


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)

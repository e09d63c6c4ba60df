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
    warnings: Sequence[str] = (),
) -> Path:
    """Writes report.md, auroc.png and roc.png into `workdir`; returns the path of report.md.

    The first run is the encoder in question, the others its baselines; `comparisons` are
    `compare`'s of the first run with others. `protocol` and `notes` are sentences, each a line of a
    list; `warnings` stand under the verdict. No image or patient id is written. Where nothing can
    be estimated there are no pictures.
    """
    named = [(run.name, run.rows) for run in runs]
    several = len(tables.shown(runs[0].rows)) > 1
    parts = [f"# {title}", *(verdict(comparison) for comparison in comparisons)]
    if not comparisons:
        parts.append(_alone(runs[0]))
    parts += [*warnings, _test_set(runs[0])]
    if figures.forest(workdir / "auroc.png", named, comparisons):
        parts.append("![AUROC and 95 % interval of every label and encoder](auroc.png)")
    parts += ["## AUROC", "With 95 % intervals.", tables.auroc_table(named)]
    missing = [row for row in runs[0].rows if row["auroc"] is None and row["label"] != "macro"]
    if missing:
        reasons = "; ".join(f"{row['label']} ({row['note']})" for row in missing)
        parts.append(f"Without a score, and not in any mean: {reasons}.")
    if comparisons:
        parts += ["## Comparisons", _PAIRED, tables.comparison_table(comparisons)]
        if several and comparisons[0]["labels"]:
            parts += [
                f"Label by label, AUROC of {comparisons[0]['a']} less that of the other:",
                tables.difference_table(comparisons),
            ]
    parts += _curves(workdir, runs)
    parts += ["## How it was measured", _list(protocol)]
    parts += ["## To know", _list(notes)] if notes else []
    parts += ["## Provenance", tables.markdown(["what", "value"], list(provenance.items()))]
    path = workdir / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


_PAIRED = (
    "Both encoders scored the same films, and each resample of patients was scored by both. "
    '"win" and "loss": the 95 % interval of A − B excludes zero, and p is at most .05; "tie": it '
    "lies within ± the margin, .02, below which a difference does not matter; "
    '"underpowered": neither: with power .8 a difference could have been found only from the size '
    "shown on. The verdict is on the mean over labels; single labels are not corrected for their "
    "number."
)


def verdict(comparison: Mapping[str, Any]) -> str:
    """The comparison in one sentence of plain words, Markdown.

    Against random initialisation (a run named "random") the question is whether pretraining helped.
    """
    a, b = comparison["a"], comparison["b"]
    if comparison["low"] is None:
        return f"**Not estimable: {a} against {b}.** The test set allows no interval."
    trained = b == "random" and a != "random"
    numbers = (
        f"{_what(comparison)} {tables.number(comparison['auroc_a'])} against "
        f"{tables.number(comparison['auroc_b'])} from {'random initialisation' if trained else b}, "
        f"difference {tables.signed(comparison['difference'])} (95 % interval "
        f"{tables.signed(comparison['low'])} to {tables.signed(comparison['high'])})"
    )
    if comparison["verdict"] == "win":
        claim = f"Pretraining helped ({a})" if trained else f"{a} is better than {b}"
        return f"**{claim}:** {numbers}."
    if comparison["verdict"] == "loss":
        claim = f"Pretraining made it worse ({a})" if trained else f"{a} is worse than {b}"
        return f"**{claim}:** {numbers}."
    margin = tables.number(comparison["margin"])
    if comparison["verdict"] == "tie":
        claim = f"Pretraining made no difference ({a})" if trained else f"{a} and {b} are equal"
        return f"**{claim} within {margin}:** {numbers}."
    whether = f"whether pretraining helped ({a})" if trained else f"{a} from {b}"
    could = ""
    if comparison["detectable"] is not None:
        smallest = tables.number(comparison["detectable"])
        could = f"; these films could have shown a difference of {smallest}"
    return f"**The data cannot tell {whether}:** {numbers}{could}."


def _what(comparison: Mapping[str, Any]) -> str:
    labels = [row["label"] for row in comparison["labels"]]
    return f"AUROC for {labels[0]}" if len(labels) == 1 else "macro AUROC"


def _alone(run: Run) -> str:
    """The headline where there is nothing to compare with."""
    row = tables.shown(run.rows)[-1]
    what = "Macro AUROC" if row["label"] == "macro" else f"AUROC for {row['label']}"
    if row["auroc"] is None:
        return f"**{what} of {run.name} cannot be estimated:** {row['note']}."
    return f"**{what} of {run.name}: {tables.with_interval(row)}.** Nothing to compare it with."


def _test_set(run: Run) -> str:
    images, patients = len(run.predictions.image_id), len(set(run.predictions.patient_id))
    return f"Test set: {images:,} films of {patients:,} patients."


def _curves(workdir: Path, runs: Sequence[Run]) -> list[str]:
    """The ROC section, for labels that every run scored; empty where there are none."""
    estimable = [row["label"] for row in runs[0].rows if row["auroc"] is not None]
    labels = [
        label for label in estimable if all(label in run.predictions.label_names for run in runs)
    ]
    if not labels:
        return []
    drawn = figures.roc(workdir / "roc.png", [(run.name, run.predictions) for run in runs], labels)
    parts = ["## ROC curves", f"![ROC curves of {', '.join(drawn)}](roc.png)"]
    if len(drawn) < len(labels):
        parts.append(f"The first {len(drawn)} of {len(labels)} labels.")
    return parts


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)

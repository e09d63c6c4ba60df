"""report.md of one transfer: the verdict in words, then tables, pictures and how it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.report import figures, panels_section, tables, transfer_images
from cxr_jax.report.benchmark.grid import RANDOM
from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable, unseen_images
from cxr_jax.transfer.metrics import compare, metric_rows
from cxr_jax.transfer.predictions import Predictions, align, take_images, take_labels, validate


class Run(NamedTuple):
    """One encoder's result: its metric rows and the predictions that they come from."""

    name: str
    predictions: Predictions
    rows: Sequence[dict[str, Any]]
    images: ImageTable | None = None  # what is known of the images, and which this encoder had seen


def write_report(
    workdir: Path,
    title: str,
    runs: Sequence[Run],
    comparisons: Sequence[dict[str, Any]],
    protocol: Sequence[str],
    notes: Sequence[str],
    provenance: Mapping[str, str],
    warnings: Sequence[str] = (),
    num_resamples: int = 1000,
    untrained: str = "random",
) -> Path:
    """Writes report.md and its pictures into `workdir`; returns the path of report.md.

    The first run is the encoder in question, the others its baselines; `comparisons` are
    `compare`'s of the first run with others. `protocol` and `notes` are sentences, each a line of a
    list; `warnings` stand under the verdict. No image or patient id is written. Where nothing can
    be estimated there are no pictures. `num_resamples` of patients are drawn for what is measured
    here: calibration, subgroups and the score without test images that were seen. Raises ValueError,
    naming the image, where a run's table of images lacks one of its predictions. `untrained` as of
    `verdict`.
    """
    runs = [run._replace(predictions=validate(run.predictions)) for run in runs]
    labels = _shared_labels(runs)
    named = [(run.name, run.rows) for run in runs]
    several = len(tables.shown(runs[0].rows)) > 1
    parts = [f"# {title}", *(verdict(comparison, untrained) for comparison in comparisons)]
    if not comparisons:
        parts.append(_alone(runs[0]))
    parts += [*warnings, *_unseen(runs, num_resamples, untrained), _test_set(runs[0])]
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
    parts += _curves(workdir, runs, labels)
    predictions = [(run.name, run.predictions) for run in runs]
    parts += transfer_images.calibration_section(workdir, predictions, labels, num_resamples)
    parts += _subgroups(runs, labels, num_resamples)
    parts += panels_section.section(workdir)
    parts += ["## How it was measured", _list(protocol)]
    parts += ["## To know", _list(notes)] if notes else []
    parts += ["## Provenance", tables.markdown(["what", "value"], list(provenance.items()))]
    path = workdir / "report.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


_PAIRED = (
    "Both encoders scored the same images, and each resample of patients was scored by both. "
    '"win" and "loss": the 95 % interval of A − B excludes zero, and p is at most .05; "tie": it '
    "lies within ± the margin, .02, below which a difference does not matter; "
    '"inconclusive": neither: with power .8 a difference could have been found only from the size '
    "shown on. The verdict is on the mean over labels; single labels are not corrected for their "
    "number."
)


def verdict(comparison: Mapping[str, Any], untrained: str = "random") -> str:
    """The comparison in one sentence of plain words, Markdown.

    Against the run called `untrained`, random initialisation, the question is whether pretraining
    helped.
    """
    a, b = comparison["a"], comparison["b"]
    if comparison["low"] is None:
        return f"**Not estimable: {a} against {b}.** The test set allows no interval."
    trained = b == untrained and a != untrained
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
        could = f"; these images could have shown a difference of {smallest}"
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
    return f"Test set: {images:,} images of {patients:,} patients."


def _shared_labels(runs: Sequence[Run]) -> list[str]:
    """Labels with both classes that every run scored."""
    estimable = [row["label"] for row in runs[0].rows if row["auroc"] is not None]
    names = [run.predictions.label_names for run in runs]
    return [label for label in estimable if all(label in of_run for of_run in names)]


def _unseen(runs: Sequence[Run], num_resamples: int, untrained: str) -> list[str]:
    """The scores without test images that one of the encoders had seen, where any had."""
    images = [_images(run) for run in runs]
    if not any(table is not None and table.exposed for table in images):
        return []
    first = runs[0].predictions
    # Tables follow the order of their own run's predictions, which need not be the first's.
    tables_of = [
        image_table.in_order(table, first.image_id) for table in images if table is not None
    ]
    rows = unseen_images(tables_of)
    count = f"{int(rows.sum()):,} of the {len(rows):,} test images"
    text = f"**Without test images that were seen in pretraining:** {count}"
    if not rows.any():
        return [f"{text} are left, so that there is no score."]
    left = [take_images(align(first, run.predictions), rows) for run in runs]
    scored = [tables.shown(metric_rows(one, num_resamples))[-1] for one in left]
    text += f", of {len(set(left[0].patient_id)):,} patients, had been seen by none"
    if scored[0]["auroc"] is None:
        return [f"{text}; among them no label has both classes, so that nothing can be scored."]
    what = "macro AUROC" if scored[0]["label"] == "macro" else "AUROC"
    numbers = [f"{run.name} {tables.with_interval(row)}" for run, row in zip(runs, scored)]
    text += f". On these, {what}: {', '.join(numbers)}."
    unknown = [
        run.name
        for run, table in zip(runs, images)
        if run.name != RANDOM and (table is None or table.seen is None)
    ]
    if unknown:
        text += f" {transfer_images.not_vouched(unknown)}"
    verdicts = [
        verdict(compare(left[0], other, (runs[0].name, run.name), num_resamples), untrained)
        for run, other in zip(runs[1:], left[1:])
    ]
    return [text, *([_list(verdicts)] if verdicts else [])]


def _images(run: Run) -> ImageTable | None:
    return run.images and image_table.in_order(run.images, run.predictions.image_id)


def _subgroups(runs: Sequence[Run], labels: Sequence[str], num_resamples: int) -> list[str]:
    images = next((run.images for run in runs if run.images is not None), None)
    if images is None or not labels:
        return []
    first = take_labels(runs[0].predictions, labels)
    aligned = [(run.name, align(first, take_labels(run.predictions, labels))) for run in runs]
    images = image_table.in_order(images, first.image_id)
    return transfer_images.subgroup_section(aligned, images, num_resamples)


def _curves(workdir: Path, runs: Sequence[Run], labels: Sequence[str]) -> list[str]:
    """The ROC section; empty where there are no labels."""
    if not labels:
        return []
    drawn = figures.roc(workdir / "roc.png", [(run.name, run.predictions) for run in runs], labels)
    parts = ["## ROC curves", f"![ROC curves of {', '.join(drawn)}](roc.png)"]
    if len(drawn) < len(labels):
        parts.append(f"The first {len(drawn)} of {len(labels)} labels.")
    return parts


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)

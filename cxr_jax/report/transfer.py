"""The report of one transfer: the verdict in words, then tables, pictures and how it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr_jax.io import COMMAND
from cxr_jax.report import calibration, charts, panels, subgroups, tables, webpage
from cxr_jax.report.blocks import Block, Bullets, Heading, Table, Text
from cxr_jax.report.tables import RANDOM
from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable, unseen_images
from cxr_jax.transfer.metrics import aligned, compare, metric_rows
from cxr_jax.transfer.predictions import (
    MEASURES,
    Predictions,
    align,
    take_images,
    take_labels,
)


class Run(NamedTuple):
    """One encoder's result: its metric rows and the predictions that they come from.

    `others` are the predictions of further pretrainings, where the encoder is several; rows are
    then of all, and curves of the first.
    """

    name: str
    predictions: Predictions
    rows: Sequence[dict[str, Any]]
    images: ImageTable | None = None  # what is known of the images, and which this encoder had seen
    others: tuple[Predictions, ...] = ()

    @property
    def every(self) -> tuple[Predictions, ...]:
        """The predictions of every pretraining."""
        return self.predictions, *self.others


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
    untrained: str = RANDOM,
    command: str = "",
) -> Path:
    """Writes report.html, report.md and their pictures into `workdir`; returns report.html's path.

    The first run is the encoder in question, the others its baselines; `comparisons` are
    `compare`'s of the first run with others. `protocol` and `notes` are sentences for lists;
    `warnings` come below the verdict. No image or patient id is written. `num_resamples` of
    patients are drawn for what is measured here: calibration, subgroups and the score without test
    images that were seen. `untrained` is the name of the run with random weights. Raises
    ValueError, naming the image, where a run's table of images lacks one of its predictions.
    """
    every = [aligned(run.every) for run in runs]
    runs = [run._replace(predictions=e[0], others=tuple(e[1:])) for run, e in zip(runs, every)]
    labels = _shared_labels(runs)
    judged = sorted(comparisons, key=lambda comparison: comparison["b"] == untrained)
    verdicts = [verdict(comparison, untrained) for comparison in judged] or [_alone(runs[0])]
    page: list[Block] = [Text(verdicts[0], "lead")]
    page += [tables.made(command or f"python -m cxr_jax.report {workdir}", workdir)]
    page += map(Text, [*verdicts[1:], *_several(runs), *warnings])
    page += _unseen(runs, num_resamples, untrained)
    labelled = ~np.isnan(runs[0].predictions.targets).all(axis=1)
    patients = len(np.unique(runs[0].predictions.patient_id[labelled]))
    size, fold = f"{labelled.sum():,} images of {patients:,} patients.", runs[0].predictions.fold
    if fold is None:
        page.append(Text(f"Test set: {size}"))
    else:
        count = len(set(fold))
        said = f"{count}-fold cross-validated by patient: {size} {tables.within(count)}"
        page.append(Text(said))
    page += _scores(workdir, runs, comparisons)
    page += _comparisons(runs, comparisons)
    if labels and runs[0].predictions.score_kind not in MEASURES:
        named = [(run.name, run.predictions) for run in runs]
        caption = "Sensitivity against 1 − specificity."
        page += [Heading("ROC curves"), charts.roc(workdir / "roc.png", named, labels, caption)]
        path, caption = workdir / "reliability.png", "Observed rate against probability."
        parts, found = calibration.blocks(path, named, labels, num_resamples, caption)
        reading = map(Text, calibration.READING if found else ())
        page += [Heading("Calibration"), *reading, *parts]
        page += _subgroups(runs, labels, num_resamples)
    page += panels.blocks(workdir)
    page += [Heading("How it was measured"), Bullets(protocol)]
    page += [Heading("Notes"), Bullets(notes)] if notes else []
    page += [Heading("Provenance"), Table(["what", "value"], list(provenance.items()))]
    page += [Heading("What to do next"), Bullets(_next_steps(comparisons, labels))]
    return webpage.write(workdir, "report.md", title, page)


def _scores(
    workdir: Path, runs: Sequence[Run], comparisons: Sequence[Mapping[str, Any]]
) -> list[Block]:
    named = [(run.name, run.rows) for run in runs]
    what = tables.measure(runs[0].rows[-1])
    path = workdir / f"{what.lower().replace(' ', '_')}.png"
    title = what[0].upper() + what[1:]
    caption = f"{title} and 95 % interval of every label and encoder"
    drawn = charts.forest(path, named, comparisons, caption)
    parts: list[Block] = [drawn] if drawn else []
    meaning = Text(f"{tables.MEANINGS[what]} With 95 % intervals. {tables.minimum_said(what)}")
    parts += [Heading(title), meaning, tables.auroc_table(named)]
    missing = [r for r in runs[0].rows if tables.value(r) is None and r["label"] != "macro"]
    if missing:
        reasons = "; ".join(f"{row['label']} ({row['note']})" for row in missing)
        parts.append(Text(f"Without a score, and not in any mean: {reasons}."))
    noted = [row for row in tables.shown(runs[0].rows) if tables.value(row) is not None]
    if care := [f"{row['label']}: {row['note']}." for row in noted if row.get("note")]:
        parts.append(Bullets(care))
    precision = tables.precision_table(named)
    return [*parts, precision] if precision else parts


def _comparisons(runs: Sequence[Run], comparisons: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not comparisons:
        return []
    parts = [Heading("Comparisons"), Text(_PAIRED), tables.comparison_table(comparisons)]
    lost, used = (comparisons[0][name] for name in ("num_excluded", "num_resamples"))
    if lost and used:
        said = f"In {lost:,} of {lost + used:,} resamples a class is absent; intervals are from the"
        parts.append(Text(f"{said} others."))
    if len(tables.shown(runs[0].rows)) > 1 and comparisons[0]["labels"]:
        what = tables.measure(comparisons[0])
        title = f"Label by label, {what} of {comparisons[0]['a']} less that of the other:"
        parts += [Text(title), tables.difference_table(comparisons)]
    return parts


_PAIRED = (
    "Both encoders scored the same images, and each resample of patients was scored by both. "
    '"win" and "loss": the 95 % interval of A − B excludes zero and reaches beyond ± the margin, '
    '.02, below which a difference does not matter. "negligible": it excludes zero but lies within '
    'the margin: there is a difference, too small to matter. "tie": it holds zero and lies within '
    'the margin. "inconclusive": none of these. The minimum detectable difference is the smallest '
    "true difference that this test would have found with power .8. The verdict is on the mean "
    "over labels; single labels are not corrected for their number. DeLong's p, where it is given, "
    "comes from DeLong's test with patients as clusters."
)


def verdict(comparison: Mapping[str, Any], untrained: str = RANDOM) -> str:
    """Returns the comparison as a sentence; against `untrained` it says if pretraining helped."""
    a, b = comparison["a"], comparison["b"]
    if comparison["low"] is None:
        return f"**Not estimable: {a} against {b}.** The test set allows no interval."
    trained = b == untrained and a != untrained
    margin = tables.number(comparison["margin"])
    claim = {
        ("win", True): f"Pretraining helped ({a})",
        ("win", False): f"{a} is better than {b}",
        ("loss", True): f"Pretraining made it worse ({a})",
        ("loss", False): f"{a} is worse than {b}",
        ("negligible", True): f"Pretraining changed next to nothing ({a}, by less than {margin})",
        ("negligible", False): f"{a} and {b} differ, but by less than {margin}",
        ("tie", True): f"Pretraining made no difference ({a}) within {margin}",
        ("tie", False): f"{a} and {b} are equal within {margin}",
        ("inconclusive", True): f"Inconclusive whether pretraining helped ({a})",
        ("inconclusive", False): f"Inconclusive: {a} against {b}",
    }[comparison["verdict"], trained]
    labels = [row["label"] for row in comparison["labels"]]
    what, a, b = tables.measure(comparison), *(tables.value(comparison, w) for w in ("_a", "_b"))
    text = (
        f"**{claim}:** {f'{what} for {labels[0]}' if len(labels) == 1 else f'macro {what}'} "
        f"{tables.number(a)} against {tables.number(b)} "
        f"from {'random initialisation' if trained else comparison['b']}, difference "
        f"{tables.signed(comparison['difference'])} (95 % interval "
        f"{tables.signed(comparison['low'])} to {tables.signed(comparison['high'])})"
    )
    if comparison["verdict"] == "inconclusive" and comparison["detectable"] is not None:
        text += f"; minimum detectable difference {tables.number(comparison['detectable'])}"
    return f"{text}."


def _alone(run: Run) -> str:
    """Returns the headline where there is nothing to compare with."""
    row = tables.shown(run.rows)[-1]
    what = tables.measure(row)
    what = f"Macro {what}" if row["label"] == "macro" else f"{what} for {row['label']}"
    if tables.value(row) is None:
        return f"**{what} of {run.name} cannot be estimated:** {row['note']}."
    note = f" {row['note'].capitalize()}." if row.get("note") else ""
    number = tables.with_interval(row)
    return f"**{what} of {run.name}: {number}.**{note} Nothing to compare it with."


def _shared_labels(runs: Sequence[Run]) -> list[str]:
    """Returns the labels that can be estimated and that every run scored."""
    estimable = [row["label"] for row in runs[0].rows if tables.value(row) is not None]
    names = [run.predictions.label_names for run in runs]
    return [label for label in estimable if all(label in of_run for of_run in names)]


def _several(runs: Sequence[Run]) -> list[str]:
    """Says of which runs there are several pretrainings, and what is shown of one alone."""
    return [
        f"{run.name}: the score is the mean of {len(run.every)} pretrainings of one recipe, and "
        "intervals hold the variance between them, with one degree of freedom less than there are. "
        "Curves, calibration, subgroups and pictures are of the first."
        for run in runs
        if run.others
    ]


def _unseen(runs: Sequence[Run], num_resamples: int, untrained: str) -> list[Block]:
    """Returns the scores without test images that one of the encoders had seen, where any had."""
    first = runs[0].predictions
    # Tables are in the order of their own run's predictions, which may not be the first's.
    images = [run.images and image_table.in_order(run.images, first.image_id) for run in runs]
    known = [table for table in images if table is not None]
    if not any(table.exposed for table in known):
        return []
    rows = unseen_images(known)
    count = f"{int(rows.sum()):,} of the {len(rows):,} test images"
    text = f"**Without test images that were seen in pretraining:** {count}"
    if not rows.any():
        return [Text(f"{text} are left, so that there is no score.")]
    left = [[take_images(align(first, one), rows) for one in run.every] for run in runs]
    scored = [tables.shown(metric_rows(every, num_resamples))[-1] for every in left]
    text += f", of {len(set(left[0][0].patient_id)):,} patients, had been seen by none"
    if tables.value(scored[0]) is None:
        why = scored[0]["note"].removeprefix("not estimable: ")
        return [Text(f"{text}. Nothing can be scored on them: {why}.")]
    what = tables.measure(scored[0])
    what = f"macro {what}" if scored[0]["label"] == "macro" else what
    numbers = [f"{run.name} {tables.with_interval(row)}" for run, row in zip(runs, scored)]
    text += f". On these, {what}: {', '.join(numbers)}."
    unknown = [run.name for run, table in zip(runs, images) if table is None or table.seen is None]
    if unknown := [name for name in unknown if name != RANDOM]:
        text += f" {tables.not_vouched(unknown)}"
    verdicts = [
        verdict(compare(left[0], other, (runs[0].name, run.name), num_resamples), untrained)
        for run, other in zip(runs[1:], left[1:])
    ]
    return [Text(text), *([Bullets(verdicts)] if verdicts else [])]


def _subgroups(runs: Sequence[Run], labels: Sequence[str], num_resamples: int) -> list[Block]:
    images = next((run.images for run in runs if run.images is not None), None)
    if images is None:
        return []
    first = take_labels(runs[0].predictions, labels)
    aligned = [(run.name, align(first, take_labels(run.predictions, labels))) for run in runs]
    images = image_table.in_order(images, first.image_id)
    caption = f"{'Macro ' if len(labels) > 1 else ''}AUROC within each group, with 95 % intervals."
    parts, found = subgroups.blocks(aligned, images, num_resamples, caption)
    return [Heading(subgroups.TITLE), *([Text(subgroups.METHOD)] if found else []), *parts]


def _next_steps(comparisons: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[str]:
    if not labels:
        return ["Test on more patients: no label can be estimated here."]
    if not comparisons:
        return [
            "Compare with another encoder: name it in config.baselines, or give the predictions of "
            "both: python -m cxr_jax.report OURS.parquet THEIRS.parquet."
        ]
    steps = []
    found = {comparison["verdict"]: comparison for comparison in comparisons}
    if "inconclusive" in found:
        smallest = tables.number(found["inconclusive"]["detectable"])
        steps.append(
            f"Where the verdict is inconclusive, test on more patients: here only a difference of "
            f"about {smallest} could be found. Four times the patients halve that."
        )
    if "loss" in found:
        steps.append(
            "Where it is a loss, keep the better encoder, or pretrain for longer or on more images "
            "and run this transfer again."
        )
    steps.append(
        "See whether it holds on other datasets, label fractions and seeds: "
        f"{COMMAND} --config=configs/benchmark.py (its first lines say how to name encoders)."
    )
    return steps

"""A transfer's report: what it says of images, protocol and provenance beside the numbers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from cxr_jax.data import dataset_info, tasks
from cxr_jax.data.seen_images import Seen
from cxr_jax.data.splits import LabelledSplit
from cxr_jax.experiments import _transfer_inputs
from cxr_jax.report import tables
from cxr_jax.report import transfer as page
from cxr_jax.report.blocks import markdown_table
from cxr_jax.transfer._protocol import Protocol, Splits
from cxr_jax.transfer.image_table import ImageTable, beyond_chance
from cxr_jax.transfer.metrics import metric_rows
from cxr_jax.transfer.predictions import Predictions

# Years. Few people are older, and could be found by their age; nobody has been older than that.
_GREAT_AGE, _IMPOSSIBLE = 90, 120


class Outcome(NamedTuple):
    """One encoder's result. rows: its metrics. facts: how it came about, as JSON."""

    name: str
    predictions: Predictions
    rows: list[dict[str, Any]]
    facts: dict[str, Any]


def method(config, protocol: Protocol, outcomes: list[Outcome], splits: Splits) -> list[str]:
    """Says how it was measured, a sentence or two per line."""
    sizes = {name: split.size() for name, split in splits._asdict().items()}
    share = "all training patients"
    if config.label_fraction < 1:
        percent = f"{100 * config.label_fraction:g} %"
        share = f"{percent} of the training patients whose label is known, drawn with seed "
        share += f"{config.seed}"
    how = (
        f"Labels used for training: {sizes['train']} ({share}). Choices were made on the "
        f"whole validation split, {sizes['validation']}: its labels come on top of that budget. "
        f"Tested on {sizes['test']}, scored once."
    )
    if config.protocol == "zero_shot":
        how = f"No label was used for training or choices. Tested on {sizes['test']}, scored once."
    if config.folds:
        how = (
            f"{config.folds}-fold cross-validated by patient, stratified by label: "
            f"{sizes['test']}, each scored once, by a model that had not seen its patient. Of "
            "every model one fold was tested, choices were made on the next, and the others "
            f"trained (about {outcomes[0].facts['num_images']:,} images; {share}). Folds were "
            f"drawn with seed {config.seed}, the same for every encoder."
        )
        if config.pictures.draw:
            how += (
                " For pictures, scores are ranked within folds and features are those of the "
                "frozen encoder, with neighbours from other folds; where a score comes from is not "
                "drawn, because every fold has its own model."
            )
    lines = [
        how,
        *protocol.method(splits.test.task.exclusive),
        f"Intervals: Student's, with the spread over {config.num_resamples:,} bootstrap resamples "
        f"of patients, of {tables.measure(outcomes[0].rows[-1])} on the logit scale; differences "
        "are paired on the same images.",
    ]
    parts = _transfer_inputs.parts(config, splits).values()
    unlabelled = sum(int((~split.labelled).sum()) for split in parts)
    if config.folds:  # the pool is without them
        known = len(splits.test.rows) + splits.test.other_projections
        unlabelled = len(splits.test.source) - known
    if unlabelled:
        lines.append(f"{unlabelled:,} more images have none of the labels and are not counted.")
    lines += _policies(splits, parts)
    for k, label in enumerate(splits.test.label_names):
        if splits.test.uncertain[:, k].any() or splits.train.uncertain[:, k].any():
            counts = [int(split.uncertain[:, k].sum()) for split in splits]
            where = f"{counts[0]} training, {counts[1]} validation and {counts[2]} test images"
            if config.folds:
                where = f"{counts[0]} images"
            lines.append(
                f"{label}: uncertain (−1) in {where}, counted as {splits.test.task.uncertain_as}."
            )
    lines += [f"{outcome.name}: {outcome.facts['summary']}." for outcome in outcomes]
    return lines


def image_table(test: LabelledSplit, seen: Seen | None) -> ImageTable:
    """Tabulates the test images, and which of them an encoder saw (`seen`; None: unknown)."""
    count = len(test.rows)
    known = (None, None) if seen is None else (seen.image, seen.patient)
    ages = np.array(test.ages or (np.nan,) * count, np.float32)
    return ImageTable(
        np.array(test.hashed_ids()[0], str),
        np.array(test.sexes or ("",) * count, str),
        np.where(ages > _IMPOSSIBLE, np.nan, np.minimum(ages, _GREAT_AGE)).astype(np.float32),
        np.array(test.projections or ("",) * count, str),
        *(None if flags is None else flags[test.rows] for flags in known),
    )


def exposure_lines(
    seen: Mapping[str, Seen | None], rows: Int[np.ndarray, " n"], dataset: str
) -> tuple[list[str], list[str]]:
    """Says what encoders saw of the test images in pretraining: (warnings, lines on the method).

    Args:
      seen: encoder's spec -> its exposure to the images of the test split's source; None where it
        kept no list of seen images.
      rows: the source's images that are tested on.
    """
    warnings, lines = [], []
    for spec, of_source in seen.items():
        if spec == "random":  # which saw nothing
            continue
        if of_source is None:
            lines.append(f"{spec} has no list of the images that it saw in pretraining.")
            continue
        either = by_looks = of_source.image[rows]
        total, images, patients = len(rows), int(by_looks.sum()), None
        known = "its patients are unknown or numbered otherwise"
        if of_source.patient is not None:
            by_patient = of_source.patient[rows]
            either, patients = by_looks | by_patient, int(by_patient.sum())
            known = f"it saw patients of {patients:,}"
        lines.append(
            f"Of the {total:,} test images, {images:,} look like images that {spec} saw in "
            f"pretraining, by their hashes alone; {known}."
        )
        if of_source.unknown_start:
            lines.append(
                f"{spec} started from {of_source.unknown_start}; what that had seen is not known."
            )
        if beyond_chance(images, patients, total):
            warnings.append(
                f"**{int(either.sum()):,} of the {total:,} test images, or others of their "
                f"patients, seem to have been in the pretraining of {spec}:** its score may be "
                f"too good. python -m data_builders.overlap {spec} {dataset} lists them."
            )
    return warnings, lines


def _policies(splits: Splits, parts: Iterable[LabelledSplit]) -> list[str]:
    """Says what the task does beyond taking a label as it is."""
    task, lines = splits.test.task, []
    if task.projections:
        left_out = sum(split.other_projections for split in parts)
        named = ", ".join(task.projections)
        lines.append(f"Projections: {named}; {left_out:,} images of others left out.")
    if task.exclusive:
        lines.append("The labels are classes of which every image has exactly one.")
    if task.missing_as != "ignore":
        lines.append(f"Findings that are not mentioned count as {task.missing_as}.")
    if "readers" in splits.test.source.fields:
        lines.append(f"Of several readers, {task.readers} decides.")
    if splits.test.source.metadata.get("label_scale") == "certainty":
        lines.append(f"A finding counts as present from certainty {task.certainty:g} on.")
    return lines


def cautions(dataset: str, splits: Splits, measure: str = "AUROC") -> list[str]:
    """Says whose images are not known, and which labels a split has no, or only, positives of.

    The second matters to AUROC alone.
    """
    targets = {name: getattr(splits, name).targets for name in ("validation", "test")}
    found = [dataset_info.patient_note(splits.test.source.metadata)]
    if measure == "AUROC":
        found.append(tasks.one_sided(targets, splits.test.label_names))
    return [f"{dataset}: {said}" for said in found if said]


def notes(outcomes: list[Outcome]) -> list[str]:
    """Lists what a reader must know of single labels, from the protocol and the metric rows."""
    lines = []
    for outcome in outcomes:
        lines += [f"{outcome.name}: {remark}" for remark in outcome.facts["remarks"]]
        for label, note in outcome.facts["notes"].items():
            lines.append(f"{outcome.name}, {label}: {note}.")
        for row in outcome.rows:
            if row.get("note") and tables.value(row) is not None:
                lines.append(f"{outcome.name}, {row['label']}: {row['note']}.")
    return lines


def together(
    outcomes: list[Outcome], splits: Splits, exposed: Seen | None, num_resamples: int, seed: int
) -> page.Run:
    """Returns an encoder's results as the report shows them; of several pretrainings their mean."""
    first, *others = outcomes
    images = image_table(splits.test, exposed)
    if not others:
        return page.Run(first.name, first.predictions, first.rows, images)
    every = [one.predictions for one in outcomes]
    rows = metric_rows(every, num_resamples, seed, first.facts["not_scored"])
    name = f"{first.name.partition(' (')[0]}, {len(outcomes)} pretrainings"
    return page.Run(name, first.predictions, rows, images, tuple(every[1:]))


def report(
    config,
    workdir: Path,
    chosen: Protocol,
    runs: list[page.Run],
    outcomes: list[Outcome],
    comparisons: list[dict],
    splits: Splits,
    seen: Mapping[str, Seen | None],
) -> None:
    """Writes report.md and prints its verdicts, its table and its path."""
    warnings, exposed = exposure_lines(seen, splits.test.rows, config.dataset)
    warnings += cautions(config.dataset, splits, tables.measure(outcomes[0].rows[-1]))
    if config.folds and "test" not in config.folds_of:
        warnings.append(
            f"These are scores of the {config.folds_of.replace('+', ' and ')} images, in "
            "cross-validation: no test image was read."
        )
    if config.label_fraction < 1:
        drawn = f"{config.folds} training parts" if config.folds else splits.train.size()
        warnings.append(
            f"These numbers come from one draw of {drawn}. Other training patients "
            "would give other numbers, and the difference may change by more than its interval, "
            "which holds the uncertainty of the test images alone. configs/benchmark.py takes "
            "several draws (config.seeds)."
        )
    source = splits.test.source
    provenance = {
        "encoder": config.encoder,
        "baselines": config.baselines,
        "dataset": f"{config.dataset} ({source.folder.parent.name}, version {source.folder.name})",
        "splits": source.metadata["split_rule"],
        "a patient is": source.metadata.get("patient") or "not said when it was built",
        "licence of the images": source.metadata["licence"],
        "images skipped when it was built": str(source.metadata["skipped"]),
        "seed": str(config.seed),
        **tables.provenance_rows(workdir),
    }
    path = page.write_report(
        workdir,
        f"{chosen.title} on {config.dataset}",
        runs,
        comparisons,
        [*method(config, chosen, outcomes, splits), *exposed],
        notes(outcomes),
        provenance,
        warnings,
        config.num_resamples,
    )
    table = tables.auroc_table([(run.name, run.rows) for run in runs])
    print("\n" + markdown_table(table.header, table.rows))
    for comparison in comparisons:
        print("\n" + page.verdict(comparison).replace("**", ""))
    for warning in warnings:
        print("\n" + warning.replace("**", ""))
    few = [row for run in runs for row in run.rows if tables.is_few(row)]
    for reason in dict.fromkeys(f"{row['label']}: {row['note']}." for row in few):
        print(f"\n{reason}")
    print(f"\nRead the report: {path}")

"""Sections of a transfer's report.md on calibration and on groups of the test images."""

from collections.abc import Sequence
from pathlib import Path

from cxr_jax.report import calibration, subgroups, tables
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.predictions import Predictions


def calibration_section(
    workdir: Path,
    runs: Sequence[tuple[str, Predictions]],
    labels: Sequence[str],
    num_resamples: int,
) -> list[str]:
    """Markdown; writes reliability.png. `labels` have both classes and are in all runs."""
    if not labels:
        return []
    parts = ["## Calibration"]
    ranking = calibration.ranking_only(runs)
    if len(ranking) < len(runs):
        drawn = calibration.reliability(workdir / "reliability.png", runs, labels)
        parts += [
            calibration.READING,
            f"![Observed rate against probability of {', '.join(drawn)}](reliability.png)",
        ]
        if len(drawn) < len(labels):
            parts.append(f"The first {len(drawn)} of {len(labels)} labels.")
        found = {
            name: calibration.calibrate(predictions, labels, num_resamples)
            for name, predictions in runs
            if name not in ranking
        }
        shown = [*range(len(labels)), *([-1] if len(labels) > 1 else [])]
        body = []
        for k in shown:
            label = "**mean**" if k < 0 else labels[k]
            for name, rows in found.items():
                cells = [cell.replace("\n", " ") for cell in calibration.cells(rows[k])]
                body.append([label, name, *cells])
        header = ["label", "model", *calibration.HEADER]
        parts += [tables.markdown(header, body), calibration.METHOD]
    if ranking:
        parts.append(calibration.left_out(ranking))
    return parts


def subgroup_section(
    runs: Sequence[tuple[str, Predictions]],
    images: ImageTable,
    num_resamples: int,
) -> list[str]:
    """Markdown; `runs` are of the same labels and images, in the order of `images`."""
    names = [name for name, _ in runs]
    found, sentences = subgroups.groups(runs, images, num_resamples)
    parts = [f"## {subgroups.TITLE}"]
    if found:
        header, rows = subgroups.table(names, found)
        flat = [[cell.replace("\n", " ") for cell in row] for row in rows]
        care = subgroups.notes(names, found)
        several = len(runs[0][1].label_names) > 1
        parts += [
            f"{'Macro ' if several else ''}AUROC within each group, with 95 % intervals.",
            tables.markdown(header, flat),
            *(["\n".join(f"- {sentence}" for sentence in care)] if care else []),
            subgroups.METHOD,
        ]
    if sentences:
        parts.append(" ".join(sentences))
    return parts


def not_vouched(names: Sequence[str]) -> str:
    """The sentence on encoders of which it is not known what they saw."""
    whom = "it" if len(names) == 1 else "them"
    return f"What {', '.join(names)} saw is not known: for {whom} nobody can vouch that these images were new."

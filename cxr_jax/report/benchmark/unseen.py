"""Scores on the test images that no encoder of the grid had seen, beside those on all."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cxr_jax.report.benchmark.grid import Grid, percent
from cxr_jax.report.benchmark.largest import Largest
from cxr_jax.report.benchmark.scores import Score, compared, estimable, label_scores, macro_scores
from cxr_jax.report.benchmark.tables import value_of, verdict_cell, write_csv
from cxr_jax.report.blocks import Block, Heading, Table, Text
from cxr_jax.report.tables import RANDOM, not_vouched
from cxr_jax.stats.verdict import Comparison, correct_verdicts
from cxr_jax.transfer.image_table import beyond_chance, unseen_images
from cxr_jax.transfer.predictions import take_images, take_labels


class Unseen(NamedTuple):
    """One protocol and dataset at the largest fraction, where an encoder had seen test images.

    `images` (of `patients`) of `total` are left, and `labels` can be scored on them; without any
    there are no scores. `everywhere` and `scores`: by encoder the macro AUROC over these labels, on
    all images and on those left. `seen_by` are the encoders that had seen images, `unknown` those
    for which it is not known. `comparisons` are with the reference, on the images left.
    """

    largest: Largest
    seen_by: tuple[str, ...]
    unknown: tuple[str, ...]
    images: int
    patients: int
    total: int
    labels: tuple[str, ...]
    everywhere: dict[str, Score]
    scores: dict[str, Score]
    comparisons: dict[str, Comparison]


def measure(largest: Sequence[Largest], grid: Grid, num_resamples: int) -> list[Unseen]:
    """Scores what no encoder had seen; verdicts are Holm-corrected over an encoder's datasets."""
    found = [one for held in largest if (one := _measure_one(held, grid, num_resamples))]
    for protocol in grid.protocols:
        of_protocol = [one.comparisons for one in found if one.largest.protocol == protocol]
        for encoder in grid.encoders[1:]:
            judged = [comparisons for comparisons in of_protocol if encoder in comparisons]
            corrected = correct_verdicts([comparisons[encoder] for comparisons in judged])
            for comparisons, comparison in zip(judged, corrected, strict=True):
                comparisons[encoder] = comparison
    return found


def _measure_one(held: Largest, grid: Grid, num_resamples: int) -> Unseen | None:
    """Returns the scores, not yet corrected; None where no encoder had seen a test image."""
    tables = held.images.items()
    seen_by = tuple(dict.fromkeys(name for (name, _), table in tables if table.exposed))
    if not seen_by:
        return None

    def score(chosen: Bool[np.ndarray, " n"], labels: Sequence[str]) -> dict[str, Score]:
        of_cells = {
            cell: label_scores(take_labels(take_images(one, chosen), labels), num_resamples)
            for cell, one in held.read.items()
        }
        return macro_scores(of_cells, labels, grid.encoders)

    rows = unseen_images(list(held.images.values()))
    first = next(iter(held.read.values()))
    left = take_images(first, rows)
    labels = estimable(left) if rows.any() else ()
    scores, everywhere, comparisons = {}, {}, {}
    if labels:
        whole = labels == held.place.labels
        everywhere = held.place.scores if whole else score(np.ones_like(rows), labels)
        scores = score(rows, labels)
        for encoder in grid.encoders[1:]:
            if comparison := compared(scores, encoder, grid.reference):
                comparisons[encoder] = comparison
    vouched = {whose for whose, table in tables if table.seen is not None}
    lacking = {c.encoder for c in held.read if (c.encoder, c.pretraining) not in vouched}
    unknown = tuple(name for name in held.place.scores if name in lacking - {RANDOM})
    sizes = int(rows.sum()), len(np.unique(left.patient_id)), len(rows)
    return Unseen(held, seen_by, unknown, *sizes, labels, everywhere, scores, comparisons)


def blocks(
    workdir: Path, grid: Grid, largest: Sequence[Largest], found: Sequence[Unseen]
) -> list[Block]:
    """Returns their section and writes tables/unseen.csv; nothing where no image was seen."""
    write_csv(workdir, "unseen", [line for one in found for line in _lines(one)])
    parts = [*(_block(one, grid) for one in found), *map(Text, _not_kept(grid, largest))]
    return [Heading(_TITLE, 3), *parts] if parts else []


_TITLE = "Scores without the images that were seen"


def summary(found: Sequence[Unseen]) -> list[Block]:
    """Returns a sentence for the top of the page; nothing where no test image was seen."""
    if not found:
        return []
    where = ", ".join(dict.fromkeys(one.largest.dataset for one in found))
    what = "test images, or others of their patients, seem to have been in the pretraining of an"
    return [Text(f"On {where} {what} encoder: see “{_TITLE}”.")]


def _block(one: Unseen, grid: Grid) -> Block:
    held = one.largest
    left = f"{one.images:,} of {one.total:,} test images"
    vouched = f" {not_vouched(one.unknown)}" if one.unknown else ""
    if not one.labels:
        why = "no label can be estimated on them" if one.images else "none is left"
        return Text(
            f"**{held.title}:** {left} had been seen by no encoder; {why}, so that nothing "
            f"can be scored without the others.{vouched}"
        )
    caption = (
        f"{held.title}, {percent(held.fraction)} of the training patients, mean over seeds. "
        f"{', '.join(one.seen_by)} had seen some of the images; {left}, of {one.patients:,} "
        "patients, had been seen by no encoder, by their looks or by their patient. Every encoder "
        f"is scored on these same images.{vouched}"
    )
    if len(one.labels) < len(held.place.labels):
        count = f"{len(one.labels)} of {len(held.place.labels)} labels"
        caption += f" Both columns are means over {count}: those that can be estimated here."
    columns = [f"all {one.total:,} images", f"{one.images:,} images seen by none"]
    header = ["encoder", *columns, f"on these, against {grid.reference}"]
    rows = []
    for name, score in one.scores.items():
        judged = "reference" if name == grid.reference else verdict_cell(one.comparisons.get(name))
        values = [value_of(one.everywhere[name]).words, value_of(score).words]
        rows.append([name, *values, judged])
    return Table(header, rows, caption)


def _not_kept(grid: Grid, largest: Sequence[Largest]) -> list[str]:
    """Returns sentences on encoders that saw test images, where no table says which."""
    tables = {(name, held.dataset) for held in largest for name, _ in held.images}
    sentences = {}
    for cell in grid.cells:
        seen = cell.seen
        if cell.state != "done" or seen is None or (cell.encoder, cell.dataset) in tables:
            continue
        if beyond_chance(seen.images, seen.patients, seen.test_images):
            sentence = (
                f"{cell.dataset}: which images {cell.encoder} had seen is not kept beside its "
                "predictions (films.parquet), so that they cannot be left out."
            )
            sentences[sentence] = None
    return list(sentences)


def _lines(one: Unseen) -> list[dict]:
    held = one.largest
    lines = []
    for name, score in one.scores.items():
        line = dict(protocol=held.protocol, dataset=held.dataset, fraction=held.fraction)
        line |= dict(encoder=name, seen_known=name == RANDOM or name not in one.unknown)
        line |= dict(images=one.total, images_left=one.images, patients_left=one.patients)
        for which, value in (("all", one.everywhere[name]), ("left", score)):
            numbers = value_of(value)._asdict()
            line |= {f"{field}_{which}": number for field, number in numbers.items()}
        for field in ("verdict", "difference", "low", "high", "p_adjusted"):
            line[field] = getattr(one.comparisons.get(name), field, None)
        lines.append(line | dict(labels=";".join(one.labels)))
    return lines

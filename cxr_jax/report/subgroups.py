"""AUROC by sex, age band and projection of the test images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cxr_jax.report import tables
from cxr_jax.report.blocks import Block, Bullets, Table, Text
from cxr_jax.stats.subgroups import SubgroupRow, age_band, subgroup_auroc
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.predictions import Predictions

TITLE = "Subgroups: sex, age and projection"

METHOD = (
    "Groups differ in how common findings are and in what else is on the images, not only in how "
    "well a model reads them. Intervals that overlap do not show that groups are alike, and among "
    "many groups one differs by chance. Nothing here is corrected for the number of groups."
)

_FACETS = ("sex", "age", "projection")


class Group(NamedTuple):
    """One group of images, "age 40-59", and the row of each model, in the order of the runs.

    `positives` is None where there are several labels.
    """

    facet: str
    images: int
    positives: int | None
    rows: tuple[SubgroupRow, ...]

    @property
    def name(self) -> str:
        return f"{self.facet} {self.rows[0].group}"


def groups(
    runs: Sequence[tuple[str, Predictions]], images: ImageTable, num_resamples: int
) -> tuple[list[Group], list[str]]:
    """Returns groups by each fact in which images differ, and sentences on the other facts.

    `runs` are (name, predictions) of the same images in one order, that of `images`.
    """
    found, sentences = [], []
    unknown = []
    bands = np.array([age_band(age) for age in images.age.tolist()], str)
    for facet, values in zip(_FACETS, (images.sex, bands, images.projection)):
        kinds = sorted(set(values.tolist()))
        if kinds == [""]:
            unknown.append(facet)
        elif len(kinds) == 1:
            sentences.append(f"All images: {facet} {kinds[0]}.")
        else:
            by_model = [
                subgroup_auroc(
                    *(one.targets, one.scores, one.patient_id, values, num_resamples),
                    fold=one.fold,
                )
                for _, one in runs
            ]
            single = len(runs[0][1].label_names) == 1
            for rows in zip(*by_model):
                own = np.where(values == "", "unknown", values) == rows[0].group
                found.append(Group(facet, int(own.sum()), rows[0].n_pos if single else None, rows))
    if unknown:
        several = "are" if len(unknown) > 1 else "is"
        sentences.append(f"{' and '.join(unknown).capitalize()} {several} not known of any image.")
    return found, sentences


def blocks(
    runs: Sequence[tuple[str, Predictions]], images: ImageTable, num_resamples: int, caption: str
) -> tuple[list[Block], list[Group]]:
    """Returns the table with what a reader must know of it, and its groups; see `groups`."""
    names = [name for name, _ in runs]
    found, sentences = groups(runs, images, num_resamples)
    care = notes(names, found)
    parts: list[Block] = [table(names, found, caption)] if found else []
    parts += [Bullets(care)] if care else []
    parts += [Text(" ".join(sentences))] if sentences else []
    return parts, found


def table(names: Sequence[str], found: Sequence[Group], caption: str = "") -> Table:
    """Returns groups by models, intervals on a second line."""
    rows = []
    for group in found:
        images = f"{group.images:,}"
        if group.positives is not None:
            images += f"\n({group.positives:,} positive)"
        cells = [tables.two_lines(tables.with_interval(row._asdict())) for row in group.rows]
        rows.append([group.name, images, *cells])
    return Table(["group", "images", *names], rows, caption)


def notes(names: Sequence[str], found: Sequence[Group]) -> list[str]:
    """Returns sentences on groups whose numbers are absent or need care, once if alike for all."""
    sentences = []
    for group in found:
        said = [row.note for row in group.rows]
        text = said[0]
        if len(set(said)) > 1:
            text = "; ".join(f"{name}: {note}" for name, note in zip(names, said) if note)
        if text:
            sentences.append(f"{group.name}: {text}.")
    return sentences

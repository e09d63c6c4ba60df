"""The benchmark's tables of AUROC by sex, age band and view."""

from collections.abc import Sequence
from pathlib import Path

from cxr_jax.report import subgroups
from cxr_jax.report.benchmark.grid import Grid
from cxr_jax.report.benchmark.largest import Largest
from cxr_jax.report.benchmark.tables import to_csv
from cxr_jax.report.blocks import Block, Bullets, Heading, Table, Text


def blocks(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    """Writes tables/subgroups.csv where there is something in it."""
    parts: list[Block] = []
    lines, without = [], []
    for held in largest:
        if not held.images:
            without.append(held.dataset)
            continue
        runs = held.runs(grid.encoders)
        names = [name for name, _ in runs]
        # Sex, age and view are of the images, the same whatever the encoder.
        images = next(iter(held.images.values()))
        found, sentences = subgroups.groups(runs, images, num_resamples)
        parts.append(Heading(held.title, 3))
        if found:
            parts.append(Table(*subgroups.table(names, found), _caption(held)))
        if care := subgroups.notes(names, found):
            parts.append(Bullets(care))
        if sentences:
            parts.append(Text(" ".join(sentences)))
        for group in found:
            for name, row in zip(names, group.rows):
                line = dict(protocol=held.protocol, dataset=held.dataset, fraction=held.fraction)
                line |= dict(seed=held.seed, encoder=name, fact=group.facet, group=row.group)
                lines.append(line | dict(images=group.images) | row._asdict())
    if lines:
        (workdir / "tables" / "subgroups.csv").write_text(to_csv(list(lines[0]), lines))
    if without:
        where = ", ".join(dict.fromkeys(without))
        parts.append(Text(f"No table of images stands beside the predictions on {where}."))
    if not parts:
        return []
    return [Heading(subgroups.TITLE), *([Text(subgroups.METHOD)] if lines else []), *parts]


def _caption(held: Largest) -> str:
    labels = held.place.labels
    what = f"AUROC for {labels[0]}" if len(labels) == 1 else "macro AUROC"
    return f"{held.title}, {held.how}: {what} within each group, 95 % interval."

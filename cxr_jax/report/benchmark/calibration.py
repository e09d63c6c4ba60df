"""The benchmark's pages on calibration: reliability diagrams and a table per dataset."""

from collections.abc import Sequence
from pathlib import Path

from cxr_jax.report import calibration
from cxr_jax.report.benchmark.grid import Grid, plain
from cxr_jax.report.benchmark.largest import Largest
from cxr_jax.report.benchmark.tables import to_csv
from cxr_jax.report.blocks import Block, Heading, Picture, Table, Text


def blocks(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    """Writes the diagrams, and tables/calibration.csv where there is something in it."""
    parts: list[Block] = []
    lines = []
    for held in largest:
        runs = held.runs(grid.encoders)
        ranking = calibration.ranking_only(runs)
        parts.append(Heading(held.title, 3))
        if ranking:
            parts.append(Text(calibration.left_out(ranking)))
        if len(ranking) == len(runs):
            continue
        path = workdir / "figures" / f"calibration-{held.protocol}-{plain(grid, held.dataset)}.png"
        # Encoders keep the colours they have elsewhere, also where one of them is missing.
        drawn = calibration.reliability(path, runs, held.place.labels)
        caption = f"{held.title}, {held.how}: {', '.join(drawn)}."
        if len(drawn) < len(held.place.labels):
            caption += f" The first {len(drawn)} of {len(held.place.labels)} labels."
        parts.append(Picture(path, caption))
        rows = []
        for name, predictions in runs:
            if name in ranking:
                continue
            found = calibration.calibrate(predictions, held.place.labels, num_resamples)
            rows.append([name, *calibration.cells(found[-1])])
            place = dict(protocol=held.protocol, dataset=held.dataset, fraction=held.fraction)
            place |= dict(seed=held.seed, encoder=name)
            # The mean of a single label would only repeat it.
            lines += [place | row._asdict() for row in found[: -1 if len(found) == 2 else None]]
        caption = ""
        if len(held.place.labels) > 1:
            caption = f"Means over {len(held.place.labels)} labels; each in tables/calibration.csv."
        parts.append(Table(["encoder", *calibration.HEADER], rows, caption))
    if lines:
        (workdir / "tables" / "calibration.csv").write_text(to_csv(list(lines[0]), lines))
    if not parts:
        return []
    reading = [Text(calibration.READING), Text(calibration.METHOD)] if lines else []
    return [Heading("Calibration"), *reading, *parts]

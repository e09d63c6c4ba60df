"""The report of a benchmark, from cells.json and predictions alone.

Written into the benchmark's workdir: report.html, one page that needs no other file; benchmark.md,
the same for reading beside the code; tables/ with the study's tables as Markdown, LaTeX and CSV and
all scores and verdicts as CSV; figures/. Both folders are made anew. No image or patient id is in
any of them.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxr_jax.report import figures, origin, tables
from cxr_jax.report.benchmark import calibration, pictures, subgroups, unseen
from cxr_jax.report.benchmark import figures as benchmark_figures
from cxr_jax.report.benchmark import tables as bt
from cxr_jax.report.benchmark import text as words
from cxr_jax.report.benchmark.grid import Grid, percent, plain, read_grid
from cxr_jax.report.benchmark.largest import Largest, read_largest
from cxr_jax.report.benchmark.scores import MARGIN, Measured, equivalences, measure, verdicts
from cxr_jax.report.blocks import (
    Block,
    Bullets,
    Heading,
    Picture,
    Table,
    Text,
    to_html,
    to_markdown,
)

_Verdicts = Mapping[tuple[str, float], bt.Verdicts]  # by protocol and fraction


def write(workdir: Path, num_resamples: int | None = None) -> Path:
    """Writes the report into `workdir` and returns the path of report.html.

    `num_resamples`: instead of those that cells.json names. They are never fewer than a p of .05
    needs that is corrected over so many datasets. Raises ValueError for a cells.json that cannot be
    used. A cell whose predictions cannot be used is listed as failed.
    """
    workdir = Path(workdir)
    grid = read_grid(workdir)
    num_resamples = max(num_resamples or grid.num_resamples, 40 * len(grid.datasets))
    measured = measure(workdir, grid, num_resamples)
    found = {
        (protocol, fraction): verdicts(measured, grid, protocol, fraction)
        for protocol in grid.protocols
        for fraction in grid.fractions(protocol)
    }
    largest = read_largest(workdir, grid, measured)
    unexposed = unseen.measure(largest, grid, num_resamples)
    for name in ("tables", "figures"):
        shutil.rmtree(workdir / name, ignore_errors=True)
        (workdir / name).mkdir()
    studies = {protocol: bt.study_table(measured, grid, protocol) for protocol in grid.protocols}
    _write_tables(workdir / "tables", measured, found, studies)
    several = "s" if len(grid.datasets) > 1 else ""
    title = f"{len(grid.encoders)} encoders on {len(grid.datasets)} chest X-ray dataset{several}"
    blocks = [
        *_summary(grid, measured, found),
        *unseen.summary(unexposed),
        *_studies(studies),
        *_verdicts(workdir, grid, found),
        *_curves(workdir, grid, measured),
        *_rocs(workdir, grid, largest),
        *calibration.blocks(workdir, grid, largest, num_resamples),
        *subgroups.blocks(workdir, grid, largest, num_resamples),
        *_test_sets(grid, measured),
        *unseen.blocks(workdir, grid, largest, unexposed),
        *_method(grid, measured, num_resamples),
        *_origin(workdir),
        *pictures.blocks(workdir, grid),  # last: they are long
    ]
    (workdir / "benchmark.md").write_text(to_markdown(title, blocks, workdir))
    path = workdir / "report.html"
    path.write_text(to_html(title, blocks))
    return path


def _write_tables(
    folder: Path, measured: Measured, found: _Verdicts, studies: Mapping[str, bt.StudyTable]
) -> None:
    for protocol, table in studies.items():
        page = to_markdown(bt.TITLES.get(protocol, protocol), [bt.study_block(table)], folder)
        (folder / f"{protocol}.md").write_text(page)
        (folder / f"{protocol}.tex").write_text(bt.study_latex(table))
        (folder / f"{protocol}.csv").write_text(bt.study_csv(table))
    (folder / "scores.csv").write_text(bt.scores_csv(measured))
    (folder / "verdicts.csv").write_text(bt.verdicts_csv(found))


def _summary(grid: Grid, measured: Measured, found: _Verdicts) -> list[Block]:
    """What was found at the largest fraction of each protocol, before any heading."""
    sentences, shares = [], []
    for protocol in grid.protocols:
        largest = grid.fractions(protocol)[-1]
        shares.append(percent(largest))
        held = found[protocol, largest]
        sentences += words.summary(held, grid.reference, protocol)
    blocks: list[Block] = [
        Text(
            f"Every encoder against **{grid.reference}**, on the same images, with the same tuning "
            f"budget and {' or '.join(dict.fromkeys(shares))} of the training patients. In "
            "brackets the difference in macro AUROC."
        )
    ]
    blocks.append(Bullets(sentences) if sentences else Text("**There is nothing to compare.**"))
    if measured.failed:
        blocks.append(
            Text(
                f"**{len(measured.failed)} of {len(grid.cells)} cells have no result**; they are "
                "listed under “Cells without a result”."
            )
        )
    return blocks


def _studies(studies: Mapping[str, bt.StudyTable]) -> list[Block]:
    blocks = []
    for protocol, table in studies.items():
        blocks += [Heading(bt.TITLES.get(protocol, protocol)), bt.study_block(table)]
    return blocks


def _verdicts(workdir: Path, grid: Grid, found: _Verdicts) -> list[Block]:
    blocks: list[Block] = [
        Heading(f"Verdicts against {grid.reference}"),
        Text(
            "In each cell the verdict, the difference in AUROC with its 95 % interval, and the "
            "smallest difference that these images would have shown."
        ),
    ]
    for protocol in grid.protocols:
        fractions = grid.fractions(protocol)
        held = {fraction: found[protocol, fraction] for fraction in fractions}
        if not any(held.values()):
            continue
        title = bt.TITLES.get(protocol, protocol)
        blocks += [Heading(title, 3), bt.verdict_block(held, grid, grid.datasets)]
        largest = held[fractions[-1]]
        if any(comparison.verdict != "not estimable" for comparison in largest.values()):
            path = workdir / "figures" / f"differences-{protocol}.png"
            benchmark_figures.differences(path, largest, grid.encoders, grid.datasets)
            caption = (
                f"{title}, {percent(fractions[-1])} of the training patients: AUROC less that of "
            )
            caption += f"{grid.reference}. Grey: differences too small to matter."
            blocks.append(Picture(path, caption))
    return blocks if len(blocks) > 2 else []


def _curves(workdir: Path, grid: Grid, measured: Measured) -> list[Block]:
    """Label efficiency, where a protocol has two fractions or more."""
    blocks: list[Block] = []
    for protocol, dataset in _places(grid):
        fractions = [
            fraction
            for fraction in grid.fractions(protocol)
            if (protocol, dataset, fraction) in measured.curves
        ]
        if len(fractions) < 2:
            continue
        held = [measured.curves[protocol, dataset, fraction] for fraction in fractions]
        lines = {
            name: [scores[name] for scores in held if name in scores] for name in grid.encoders
        }
        title = f"{dataset}: {bt.TITLES.get(protocol, protocol).lower()}"
        path = workdir / "figures" / f"curves-{protocol}-{plain(grid, dataset)}.png"
        benchmark_figures.label_curves(path, title, lines)
        blocks += [Heading(title, 3), Picture(path, f"{title}, AUROC against training images.")]
        blocks += _equivalences(grid, measured, protocol, dataset)
    if not blocks:
        return []
    return [Heading("How many labels an encoder saves"), *blocks]


def _equivalences(grid: Grid, measured: Measured, protocol: str, dataset: str) -> list[Block]:
    """In words for the fewest images that were tried, and a table for all numbers of them."""
    sentences, rows = [], []
    for encoder in grid.encoders[1:]:
        every = equivalences(measured, grid, protocol, dataset, encoder)
        if every:
            sentences.append(words.equivalence(every[0], encoder, grid.reference))
            for one in every:
                number = f"{one.bound} {one.labels_b:,.0f}".strip()
                rows.append([encoder, f"{one.labels_a:,.0f}", number, words.ratio(one)])
    if not rows:
        return []
    header = ["encoder", "labels", f"labels from {grid.reference}", "ratio, 95 % interval"]
    return [Bullets(sentences), Table(header, rows)]


def _rocs(workdir: Path, grid: Grid, largest: Sequence[Largest]) -> list[Block]:
    """ROC curves at the largest fraction, of the first seed that has a result."""
    blocks: list[Block] = []
    for held in largest:
        path = workdir / "figures" / f"roc-{held.protocol}-{plain(grid, held.dataset)}.png"
        labels = held.place.labels
        drawn = figures.roc(path, held.runs(grid.encoders), labels)
        caption = f"{held.title}, {held.how}: {', '.join(drawn)}."
        if len(drawn) < len(labels):
            caption += f" The first {len(drawn)} of {len(labels)} labels."
        blocks += [Heading(held.title, 3), Picture(path, caption)]
    return [Heading("ROC curves"), *blocks] if blocks else []


def _test_sets(grid: Grid, measured: Measured) -> list[Block]:
    sizes = {}
    for (_, dataset, _), place in measured.places.items():
        sizes[dataset] = f"{dataset}: {place.images:,} images of {place.patients:,} patients."
    return [
        Heading("Test sets, and what the encoders had seen of them"),
        Bullets([sizes[name] for name in grid.datasets if name in sizes]),
        Text(
            "An encoder that saw test images while it was pretrained has an advantage that new "
            "patients will not give it. Images count as seen where they look like one that was "
            "trained on, by hashes; those of up to one image in a hundred agree by chance. The "
            "small line counts images of patients who were seen with any image."
        ),
        bt.exposure_block(grid),
    ]


def _method(grid: Grid, measured: Measured, num_resamples: int) -> list[Block]:
    sentences = [
        text.format(resamples=num_resamples, margin=tables.number(MARGIN)) for text in words.METHOD
    ]
    blocks: list[Block] = []
    if measured.failed:
        header = ["encoder", "dataset", "protocol", "patients", "seeds", "state", "reason"]
        blocks += [
            Heading("Cells without a result"),
            Table(header, words.problems(measured.failed)),
        ]
    if measured.notes:
        blocks += [Heading("To know"), Bullets(list(dict.fromkeys(measured.notes)))]
    return [*blocks, Heading("How it was measured"), Bullets(sentences)]


def _origin(workdir: Path) -> list[Block]:
    """The code, packages and images of the results; nothing of a workdir that does not say."""
    found = origin.rows(workdir)
    return [Heading("Provenance"), Table(["what", "value"], list(found.items()))] if found else []


def _places(grid: Grid) -> list[tuple[str, str]]:
    """Protocols and datasets, dataset by dataset."""
    return [(protocol, dataset) for dataset in grid.datasets for protocol in grid.protocols]

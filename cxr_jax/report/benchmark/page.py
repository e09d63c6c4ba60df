"""The report of a benchmark, from cells.json and predictions alone.

It goes into the benchmark's workdir: report.html, one page that needs no other file; benchmark.md,
the same for reading beside the code; tables/ with the study's tables as Markdown, LaTeX and CSV and
all scores and verdicts as CSV; figures/. Both folders are made anew. None holds an image or patient
id.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxr_jax.report import blocks, charts, tables, webpage
from cxr_jax.report.benchmark import largest as at_largest
from cxr_jax.report.benchmark import pooled, text, unseen
from cxr_jax.report.benchmark import tables as bt
from cxr_jax.report.benchmark.grid import Grid, percent, plain, read_grid
from cxr_jax.report.benchmark.scores import MARGIN, Measured, equivalences, measure, verdicts
from cxr_jax.report.blocks import Block, Bullets, Heading, Table, Text

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
    overall = pooled.measure(found, measured, grid)
    largest = at_largest.read_largest(workdir, grid, measured)
    without_seen = unseen.measure(largest, grid, num_resamples)
    for name in ("tables", "figures"):
        shutil.rmtree(workdir / name, ignore_errors=True)
        (workdir / name).mkdir()
    studies = {protocol: bt.study_table(measured, grid, protocol) for protocol in grid.protocols}
    _write_tables(workdir / "tables", measured, found, studies)
    judged = [one for held in found.values() for one in held.values()]
    answer = text.answer(grid, found, overall, measured)
    provenance = list(tables.provenance_rows(workdir).items())
    page = [
        *([Text(answer, "lead")] if answer else []),
        tables.made(f"python -m cxr_jax.report {workdir}", workdir),
        *_summary(grid, measured, found, overall),
        *unseen.summary(without_seen),
        *(block for table in studies.values() for block in bt.study_blocks(table)),
        *_verdicts(workdir, grid, measured, found),
        *pooled.blocks(workdir, overall, grid),
        *_curves(workdir, grid, measured),
        *at_largest.labels(workdir, grid, largest, measured),
        *at_largest.sections(workdir, grid, largest, num_resamples),
        *_test_sets(grid, measured),
        *unseen.blocks(workdir, grid, largest, without_seen),
        *at_largest.images(workdir, grid, text.leading(grid, found)),
        *_method(grid, measured, num_resamples),
        *([Heading("Provenance"), Table(["what", "value"], provenance)] if provenance else []),
        Heading("What to do next"),
        Bullets(text.next_steps(judged, bool(measured.failed))),
    ]
    several = "s" if len(grid.datasets) > 1 else ""
    title = f"{len(grid.encoders)} encoders on {len(grid.datasets)} chest X-ray dataset{several}"
    return webpage.write(workdir, "benchmark.md", title, page)


def _write_tables(
    folder: Path, measured: Measured, found: _Verdicts, studies: Mapping[str, bt.StudyTable]
) -> None:
    for protocol, table in studies.items():
        page = blocks.to_markdown(bt.title_of(protocol), bt.study_blocks(table)[1:], folder)
        (folder / f"{protocol}.md").write_text(page)
        (folder / f"{protocol}.tex").write_text(bt.study_latex(table))
        (folder / f"{protocol}.csv").write_text(bt.study_csv(table))
    (folder / "scores.csv").write_text(bt.scores_csv(measured))
    (folder / "verdicts.csv").write_text(bt.verdicts_csv(found))


def _summary(
    grid: Grid, measured: Measured, found: _Verdicts, overall: Sequence[pooled.Overall]
) -> list[Block]:
    """Returns what was found at the largest fraction of each protocol, before any heading."""
    sentences, shares = [], {}
    for protocol in grid.protocols:
        largest = grid.fractions(protocol)[-1]
        shares[percent(largest)] = None
        sentences += text.summary(found[protocol, largest], grid.reference, protocol)
        sentences += pooled.sentences(overall, grid, protocol)
    whats = list(dict.fromkeys(measured.measure(protocol) for protocol in grid.protocols))
    opening = (
        f"Every encoder against **{grid.reference}**, on the same images, with the same tuning "
        f"budget and {' or '.join(shares)} of the training patients. In brackets the difference "
        f"in macro {' or '.join(whats)}. {' '.join(tables.MEANINGS[what] for what in whats)}"
    )
    nothing = Text("**There is nothing to compare.**")
    page: list[Block] = [Text(opening), Bullets(sentences) if sentences else nothing]
    if measured.failed:
        count = f"{len(measured.failed)} of {len(grid.cells)} cells have no result"
        page.append(Text(f"**{count}**; they are listed under “Cells without a result”."))
    return page


def _verdicts(workdir: Path, grid: Grid, measured: Measured, found: _Verdicts) -> list[Block]:
    page: list[Block] = [
        Heading(f"Verdicts against {grid.reference}"),
        Text(
            "In each cell: the verdict, the difference with its 95 % interval, and the "
            "minimum detectable difference, the smallest that these images could have shown. "
            "“How it was measured” says what the verdicts mean."
        ),
    ]
    for protocol in grid.protocols:
        fractions = grid.fractions(protocol)
        held = {fraction: found[protocol, fraction] for fraction in fractions}
        if not any(held.values()):
            continue
        title = bt.title_of(protocol)
        care = bt.caveats(measured, protocol, fractions)
        block = bt.verdict_block(held, grid, grid.datasets)
        page += [Heading(title, 3), block._replace(caption=care)]
        largest = held[fractions[-1]]
        if any(comparison.verdict != "not estimable" for comparison in largest.values()):
            path = workdir / "figures" / f"differences-{protocol}.png"
            what = f"{percent(fractions[-1])} of the training patients. Grey: too small to matter."
            given = largest, grid.encoders, grid.datasets, what, measured.measure(protocol)
            page.append(charts.differences(path, *given))
    return page if len(page) > 2 else []


def _curves(workdir: Path, grid: Grid, measured: Measured) -> list[Block]:
    """Label efficiency, where a protocol has two fractions or more."""
    page: list[Block] = []
    for protocol, dataset in grid.places:
        keys = [(protocol, dataset, fraction) for fraction in grid.fractions(protocol)]
        held = [measured.curves[key] for key in keys if key in measured.curves]
        if len(held) < 2:
            continue
        lines = {
            name: [scores[name] for scores in held if name in scores] for name in grid.encoders
        }
        title = f"{dataset}: {bt.title_of(protocol).lower()}"
        path = workdir / "figures" / f"curves-{protocol}-{plain(grid, dataset)}.png"
        drawn = charts.label_curves(path, title, lines, measured.measure(protocol))
        page += [Heading(title, 3), drawn]
        if dropped := measured.dropped.get((protocol, dataset)):
            said = (
                f"The curve and the labels saved leave out {', '.join(dropped)}, which cannot be "
                "scored at every number of images; tables and verdicts hold them where they can be."
            )
            page.append(Text(said))
        page += _equivalences(grid, measured, protocol, dataset)
    return [Heading("How many labels an encoder saves"), *page] if page else []


def _equivalences(grid: Grid, measured: Measured, protocol: str, dataset: str) -> list[Block]:
    """Returns sentences for the fewest images that were tried, and a table for all numbers."""
    sentences, rows = [], []
    for encoder in grid.encoders[1:]:
        every = equivalences(measured, grid, protocol, dataset, encoder)
        if every:
            sentences.append(text.equivalence(every[0], encoder, grid.reference))
            for one in every:
                number = f"{one.bound} {one.labels_b:,.0f}".strip()
                rows.append([encoder, f"{one.labels_a:,.0f}", number, text.ratio(one)])
    header = ["encoder", "labels", f"labels from {grid.reference}", "ratio, 95 % interval"]
    return [Bullets(sentences), Table(header, rows)] if rows else []


def _test_sets(grid: Grid, measured: Measured) -> list[Block]:
    sizes: dict[str, dict[str, str]] = {}  # at the largest fraction, by dataset and protocol
    for (protocol, dataset, _), place in measured.places.items():
        said = f"{place.images:,} images of {place.patients:,} patients"
        said += f", {place.in_folds}." if place.folds else "."
        sizes.setdefault(dataset, {})[f", {bt.title_of(protocol).lower()}"] = said
    lines = dict.fromkeys(
        f"{dataset}{whose if len(set(by.values())) > 1 else ''}: {said}"
        for dataset, by in sizes.items()
        for whose, said in by.items()
    )
    notes = {cell.dataset: cell.patient_note for cell in grid.cells if cell.state == "done"}
    return [
        Heading("Test sets, and what the encoders had seen of them"),
        Bullets(list(lines)),
        *(Text(f"**{dataset}:** {note}") for dataset, note in notes.items() if note),
        Text(
            "An encoder that saw test images while it was pretrained has an advantage that new "
            "patients will not give it. An image counts as seen where its hash equals that of a "
            "pretraining image; up to one in a hundred agrees by chance. The small line counts "
            "images of patients of whom any image was seen."
        ),
        bt.seen_block(grid),
    ]


def _method(grid: Grid, measured: Measured, num_resamples: int) -> list[Block]:
    facts = dict(resamples=num_resamples, margin=tables.number(MARGIN), minimum=tables.MINIMUM_SAID)
    facts["pretrainings"] = text.pretrainings(grid)
    sentences = [one.format(**facts) for one in text.METHOD]
    folds = sorted({place.folds for place in measured.places.values() if place.folds})
    for count in folds:
        sentences.append(f"Cross-validated, {count} folds: {text.IN_FOLDS} {tables.within(count)}")
    page: list[Block] = []
    if measured.failed:
        names = ("encoder", "dataset", "protocol", "training patients", "seeds", "state", "reason")
        page += [Heading("Cells without a result"), Table(names, text.problems(measured.failed))]
    if measured.notes:
        page += [Heading("Notes"), Bullets(list(dict.fromkeys(measured.notes)))]
    return [*page, Heading("How it was measured"), Bullets(sentences)]

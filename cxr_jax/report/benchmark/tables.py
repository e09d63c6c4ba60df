"""The tables of a benchmark: blocks of the page, and Markdown, LaTeX and CSV files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr_jax.report import published, tables
from cxr_jax.report.benchmark.grid import Cell, Grid, percent
from cxr_jax.report.benchmark.scores import Measured, Score
from cxr_jax.report.blocks import Block, Heading, Table
from cxr_jax.report.tables import Value
from cxr_jax.stats.random_effects import Pooled
from cxr_jax.stats.verdict import Comparison
from cxr_jax.transfer.image_table import beyond_chance

_TITLES = {"linear": "Linear probe", "finetune": "Fine-tuning", "knn": "Nearest neighbours"}
_TITLES |= {"attentive": "Attentive probe", "segmentation": "Segmentation"}
_TITLES |= {"localisation": "Localisation"}

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def title_of(protocol: str) -> str:
    """Returns the protocol's name for a reader.

    >>> title_of("linear")
    'Linear probe'
    """
    return _TITLES.get(protocol, protocol)


class StudyTable(NamedTuple):
    """Encoders by datasets, as the study's Tables 4 and 5, with its figures below ours.

    A row ends with the mean over `averaged`, the datasets on which every encoder of ours has a
    score.
    """

    protocol: str
    fraction: float
    datasets: list[str]
    averaged: list[str]
    ours: dict[str, list[Value]]
    theirs: dict[str, list[Value]]
    care: str
    measure: str = "AUROC"

    @property
    def rows(self) -> dict[str, list[Value]]:
        return self.ours | self.theirs


def study_table(measured: Measured, grid: Grid, protocol: str) -> StudyTable:
    """Returns the table of one protocol at its largest fraction."""
    fraction = grid.fractions(protocol)[-1]
    run = {cell.dataset for cell in grid.cells if cell.protocol == protocol}
    datasets = [name for name in grid.datasets if name in run]
    places = {name: measured.places.get((protocol, name, fraction)) for name in datasets}
    scores = {name: place.scores if place else {} for name, place in places.items()}
    averaged = [name for name in datasets if set(scores[name]) == set(grid.encoders)]

    def row(found: Mapping[str, Value]) -> list[Value]:
        held = [found[name].auroc if name in found else None for name in averaged]
        mean = Value() if not held or None in held else Value(float(np.mean(held)))
        return [*(found.get(name, Value()) for name in datasets), mean]

    ours = {
        encoder: row({n: value_of(held[encoder]) for n, held in scores.items() if encoder in held})
        for encoder in grid.encoders
    }
    lists = {cell.dataset: cell.splits for cell in grid.cells if cell.splits}
    on_test = [name for name in datasets if not (places[name] and places[name].folds)]
    figures, said = published.beside(protocol, on_test, lists)
    theirs = {name: row(found) for name, found in figures.items()}
    care = caveats(measured, protocol, [fraction])
    care, what = f"{said} {care}".strip(), measured.measure(protocol)
    return StudyTable(protocol, fraction, datasets, averaged, ours, theirs, care, what)


def caveats(measured: Measured, protocol: str, fractions: Sequence[float]) -> str:
    """Says what an interval or a mean rests on where that is not what a reader would think."""
    sentences = []
    places = {key[1:]: place for key, place in measured.places.items() if key[0] == protocol}
    folds = {place.in_folds for place in places.values()}
    alike = next(iter(folds)) if len(folds) == 1 else ""
    if alike:
        sentences.append(f"{alike.capitalize()}.")
    for dataset in dict.fromkeys(name for name, _ in places):
        by_labels: dict[tuple[str, ...], list[str]] = {}
        alone = []
        for fraction in fractions:
            if place := places.get((dataset, fraction)):
                if place.folds and not alike and fraction == fractions[-1]:
                    sentences.append(f"{dataset}: {place.in_folds}.")
                by_labels.setdefault(place.labels, []).append(percent(fraction))
                lost = max(score.num_excluded for score in place.scores.values())
                if lost:
                    sentences.append(
                        f"{dataset}, {percent(fraction)}: in {lost:,} of {place.num_resamples:,} "
                        "resamples a class is absent, and intervals are from the others."
                    )
                if fraction < 1 and all(len(one.seeds) == 1 for one in place.scores.values()):
                    alone.append(percent(fraction))
        if alone:
            sentences.append(
                f"{dataset}, {', '.join(alone)}: one choice of training patients; with others the "
                "scores would differ, by how much cannot be seen here."
            )
        if len(by_labels) > 1:
            sets = (f"{', '.join(names)} at {', '.join(at)}" for names, at in by_labels.items())
            sentences.append(f"{dataset}: means over {'; over '.join(sets)}.")
    return " ".join(sentences)


def value_of(score: Score) -> Value:
    numbers = score.mean, *score.interval
    return Value(*(None if np.isnan(number) else number for number in numbers))


def study_blocks(table: StudyTable) -> list[Block]:
    """Returns the table below its heading."""
    rows = [[name, *(value.words for value in values)] for name, values in table.rows.items()]
    block = Table(["encoder", *table.datasets, "mean"], rows, caption(table))
    return [Heading(title_of(table.protocol)), block]


def caption(table: StudyTable) -> str:
    """Returns what the table shows, for a reader who sees it alone."""
    title = title_of(table.protocol)
    text = (
        f"{title}, {percent(table.fraction)} of the training patients: macro {table.measure}, mean "
        "over seeds, with 95 % interval (patients and seeds resampled)."
    )
    if not table.averaged:
        text += " No mean: no dataset has a score from every encoder."
    elif len(table.averaged) < len(table.datasets):
        text += f" The mean is over {', '.join(table.averaged)}, where every encoder has a score."
    return f"{text} {table.care}".strip()


def study_latex(table: StudyTable) -> str:
    """Returns a table environment that needs \\usepackage{booktabs}."""
    ours, theirs = (
        "".join(_tex_row(name, values) for name, values in rows.items())
        for rows in (table.ours, table.theirs)
    )
    header = " & ".join(tex(name) for name in ("encoder", *table.datasets, "mean"))
    between = "\\midrule\n" if theirs else ""
    return rf"""% \usepackage{{booktabs}}
\begin{{table}}
\centering
\caption{{{tex(caption(table))}}}
\label{{tab:benchmark-{"".join(filter(str.isalnum, table.protocol))}}}
\begin{{tabular}}{{l{"c" * len(table.datasets)}c}}
\toprule
{header} \\
\midrule
{ours}{between}{theirs}\bottomrule
\end{{tabular}}
\end{{table}}
"""


def _tex_row(name: str, values: Sequence[Value]) -> str:
    cells = []
    for value in values:
        # In braces: a cell that begins with [ would be taken for an argument of the \\ before it.
        first, *interval = value.words.split("\n")
        cells.append(tex(first) + "".join(rf" {{\scriptsize {tex(line)}}}" for line in interval))
    return " & ".join([tex(name), *cells]) + " \\\\\n"


def tex(text: str) -> str:
    """Returns plain text as LaTeX."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def study_csv(table: StudyTable) -> str:
    """Returns a line per encoder and dataset, and per mean; the numbers in full."""
    lines = [
        {"source": source, "encoder": encoder, "dataset": dataset} | value._asdict()
        for source, rows in (("ours", table.ours), ("study", table.theirs))
        for encoder, values in rows.items()
        for dataset, value in zip([*table.datasets, "mean"], values)
    ]
    return to_csv(["source", "encoder", "dataset", *Value._fields], lines)


def to_csv(fields: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the lines as CSV; None and NaN become empty.

    >>> print(to_csv(["label", "auroc"], [{"label": "Mass", "auroc": None}]), end="")
    label,auroc
    Mass,
    """
    held = io.StringIO()
    writer = csv.DictWriter(held, fields, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        # NaN is the only value that is not itself.
        writer.writerow({field: "" if value != value else value for field, value in line.items()})
    return held.getvalue()


def write_csv(workdir: Path, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes tables/NAME.csv of lines with the same fields; no file where there are none."""
    if lines:
        (workdir / "tables" / f"{name}.csv").write_text(to_csv(list(lines[0]), lines))


_SCORE_FIELDS = (
    *("protocol", "dataset", "fraction", "encoder", "images", "seeds"),
    *("auroc", "low", "high", "sd_over_seeds", "labels", "pretrainings", "sd_over_pretrainings"),
    "folds",
    "measure",
)


def scores_csv(measured: Measured) -> str:
    """Returns every score of the grid, also those at smaller fractions."""
    lines = []
    for key, place in measured.places.items():
        for encoder, score in place.scores.items():
            numbers = (score.images, len(score.seeds), score.mean, *score.interval)
            spread = float(np.std(score.auroc, ddof=1)) if len(score.seeds) > 1 else None
            line = (*key, encoder, *numbers, spread, ";".join(place.labels))
            several = score.of_pretrainings
            apart = float(np.std(several, ddof=1)) if len(several) > 1 else None
            line += (len(several), apart)
            line += (place.folds, place.measure)
            lines.append(dict(zip(_SCORE_FIELDS, line, strict=True)))
    return to_csv(_SCORE_FIELDS, lines)


Verdicts = Mapping[tuple[str, str], Comparison]  # by encoder and dataset


def verdict_block(verdicts: Mapping[float, Verdicts], grid: Grid, datasets: Sequence[str]) -> Table:
    """Returns encoders and fractions (the largest first) by datasets; verdicts by fraction."""
    rows = []
    for encoder in grid.encoders[1:]:
        for fraction in sorted(verdicts, reverse=True):
            found = [verdicts[fraction].get((encoder, dataset)) for dataset in datasets]
            if any(found):
                rows.append([encoder, percent(fraction), *map(verdict_cell, found)])
    return Table(["encoder", "training patients", *datasets], rows)


def verdict_cell(comparison: Comparison | Pooled | None) -> str:
    """Returns the verdict; below it the difference and the minimum detectable difference."""
    if comparison is None:
        return "–"
    if comparison.verdict == "not estimable":
        return comparison.verdict
    difference = tables.with_interval(comparison._asdict(), "difference")
    smallest = tables.number(comparison.detectable)
    return f"{comparison.verdict}\n{difference}\ndetectable from {smallest}"


def verdicts_csv(verdicts: Mapping[tuple[str, float], Verdicts]) -> str:
    """Returns every comparison; verdicts by protocol and fraction."""
    numbers = [name for name in Comparison._fields if name != "labels"]
    lines = [
        dict(protocol=protocol, fraction=fraction, encoder=encoder, dataset=dataset)
        | {name: getattr(comparison, name) for name in numbers}
        for (protocol, fraction), found in verdicts.items()
        for (encoder, dataset), comparison in found.items()
    ]
    return to_csv(["protocol", "fraction", "encoder", "dataset", *numbers], lines)


def seen_block(grid: Grid) -> Table:
    """Returns the share of every test set that each encoder saw while it was pretrained.

    Of several pretrainings it is that which saw most.
    """
    most: dict[tuple[str, str], Cell] = {}
    for cell in grid.cells:
        if cell.state == "done":
            before = most.get((cell.encoder, cell.dataset), cell)
            most[cell.encoder, cell.dataset] = max(before, cell, key=_num_seen)
    rows = [
        [encoder, *(_seen_cell(most.get((encoder, dataset))) for dataset in grid.datasets)]
        for encoder in grid.encoders
    ]
    return Table(["encoder", *grid.datasets], rows)


def _num_seen(cell: Cell) -> tuple[int, int]:
    return (-1, -1) if cell.seen is None else (cell.seen.images, cell.seen.patients or 0)


def _seen_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.encoder == tables.RANDOM:
        return "not pretrained"
    if cell.seen is None:
        return "not known"
    seen = cell.seen
    if not seen.images and not seen.patients:  # None: no patient can be compared
        return f"none of {seen.test_images:,} images"
    share = 100 * seen.images / seen.test_images
    text = f"{seen.images:,} of {seen.test_images:,} images ({share:.1f} %)\n"
    if not beyond_chance(seen.images, seen.patients, seen.test_images):
        return text + "so few agree by chance"
    if seen.patients is None:
        return text + "patients not known"
    return text + f"{seen.patients:,} of patients who were seen"

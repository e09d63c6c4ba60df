"""The tables of a benchmark: as blocks of the page, and as Markdown, LaTeX and CSV files."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cxr_jax.report import published, tables
from cxr_jax.report.benchmark.grid import RANDOM, Cell, Grid, percent
from cxr_jax.report.benchmark.scores import Measured, Place, Score
from cxr_jax.report.blocks import Table
from cxr_jax.stats.verdict import Comparison
from cxr_jax.transfer.image_table import beyond_chance

TITLES = {"linear": "Linear probe", "finetune": "Fine-tuning", "knn": "Nearest neighbours"}

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


class Value(NamedTuple):
    """AUROC and its 95 % limits; None where there is no such number."""

    auroc: float | None
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        """The interval on a second line."""
        return tables.with_interval(self._asdict()).replace(" [", "\n[")


class StudyTable(NamedTuple):
    """Encoders by datasets, as the study's Tables 4 and 5, with its figures below ours.

    A row holds one value per dataset and last the mean over `averaged`, the datasets on which every
    encoder of ours has a score.
    """

    protocol: str
    fraction: float
    datasets: list[str]
    averaged: list[str]
    ours: dict[str, list[Value]]
    theirs: dict[str, list[Value]]

    @property
    def header(self) -> list[str]:
        return ["encoder", *self.datasets, "mean"]

    @property
    def rows(self) -> dict[str, list[Value]]:
        return self.ours | self.theirs


def study_table(measured: Measured, grid: Grid, protocol: str) -> StudyTable:
    """The table of one protocol at its largest fraction."""
    fraction = grid.fractions(protocol)[-1]
    datasets = [
        name
        for name in grid.datasets
        if any((cell.protocol, cell.dataset) == (protocol, name) for cell in grid.cells)
    ]
    places = {name: measured.places.get((protocol, name, fraction)) for name in datasets}
    averaged = [
        name for name, place in places.items() if place and set(place.scores) == set(grid.encoders)
    ]
    ours = {}
    for encoder in grid.encoders:
        found = {name: _value(place, encoder) for name, place in places.items()}
        ours[encoder] = _with_mean(found, averaged)
    theirs = {}
    for encoder, figures in published.beside(protocol, datasets).items():
        found = {
            name: Value(*figures[name]) if name in figures else Value(None) for name in datasets
        }
        theirs[encoder] = _with_mean(found, averaged)
    return StudyTable(protocol, fraction, datasets, averaged, ours, theirs)


def value_of(score: Score) -> Value:
    return Value(known(score.mean), *map(known, score.interval))


def _value(place: Place | None, encoder: str) -> Value:
    if place is None or encoder not in place.scores:
        return Value(None)
    score = place.scores[encoder]
    return value_of(score)


def _with_mean(found: Mapping[str, Value], averaged: Sequence[str]) -> list[Value]:
    held = [found[name].auroc for name in averaged]
    if not held or None in held:
        return [*found.values(), Value(None)]
    return [*found.values(), Value(float(np.mean(held)))]


def known(value: float) -> float | None:
    return None if np.isnan(value) else value


def study_block(table: StudyTable) -> Table:
    rows = [[name, *(value.words for value in values)] for name, values in table.rows.items()]
    return Table(table.header, rows, caption(table))


def caption(table: StudyTable) -> str:
    """What the table shows, for a reader who sees it alone."""
    title = TITLES.get(table.protocol, table.protocol)
    text = (
        f"{title}, {percent(table.fraction)} of the training patients: macro AUROC, mean over "
        "seeds, with 95 % interval (patients and seeds resampled)."
    )
    if not table.averaged:
        text += " No mean: no dataset has a score from every encoder."
    elif len(table.averaged) < len(table.datasets):
        text += f" The mean is over {', '.join(table.averaged)}, where every encoder has a score."
    if table.theirs:
        text += (
            f" Rows marked study: {published.TABLES[table.protocol]} of {published.CITATION}; "
            "its label sets and splits are not ours, so that only its order of size compares."
        )
    return text


def study_latex(table: StudyTable) -> str:
    """A table environment that needs \\usepackage{booktabs}."""
    body = [_tex_row(name, values) for name, values in table.ours.items()]
    if table.theirs:
        rows = [_tex_row(name, values) for name, values in table.theirs.items()]
        body += [r"\midrule", *rows]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(caption(table))}}}",
            rf"\label{{tab:benchmark-{''.join(filter(str.isalnum, table.protocol))}}}",
            rf"\begin{{tabular}}{{l{'c' * len(table.datasets)}c}}",
            r"\toprule",
            " & ".join(map(tex, table.header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}" + "\n",
        ]
    )


def _tex_row(name: str, values: Sequence[Value]) -> str:
    cells = []
    for value in values:
        # In braces: a cell that begins with [ would be taken for an argument of the \\ before it.
        first, *interval = value.words.split("\n")
        cells.append(tex(first) + "".join(rf" {{\scriptsize {tex(line)}}}" for line in interval))
    return " & ".join([tex(name), *cells]) + r" \\"


def tex(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def study_csv(table: StudyTable) -> str:
    """One line per encoder and dataset, and per mean; the numbers in full."""
    lines = []
    for source, rows in (("ours", table.ours), ("study", table.theirs)):
        for encoder, values in rows.items():
            for dataset, value in zip([*table.datasets, "mean"], values):
                named = {"source": source, "encoder": encoder, "dataset": dataset}
                lines.append(named | value._asdict())
    return to_csv(["source", "encoder", "dataset", *Value._fields], lines)


def to_csv(fields: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    """None and NaN become empty."""
    held = io.StringIO()
    writer = csv.DictWriter(held, fields, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        # NaN is the only value that is not itself.
        writer.writerow({field: "" if value != value else value for field, value in line.items()})
    return held.getvalue()


def scores_csv(measured: Measured) -> str:
    """Every score of the grid, also those at smaller fractions."""
    lines = []
    for (protocol, dataset, fraction), place in measured.places.items():
        for encoder, score in place.scores.items():
            low, high = score.interval
            line = dict(protocol=protocol, dataset=dataset, fraction=fraction, encoder=encoder)
            line |= dict(images=score.images, seeds=len(score.seeds), auroc=score.mean)
            spread = float(np.std(score.auroc, ddof=1)) if len(score.seeds) > 1 else None
            line |= dict(low=low, high=high, sd_over_seeds=spread, labels=";".join(place.labels))
            lines.append(line)
    fields = ["protocol", "dataset", "fraction", "encoder", "images", "seeds", "auroc", "low"]
    return to_csv([*fields, "high", "sd_over_seeds", "labels"], lines)


Verdicts = Mapping[tuple[str, str], Comparison]  # by encoder and dataset


def verdict_block(verdicts: Mapping[float, Verdicts], grid: Grid, datasets: Sequence[str]) -> Table:
    """Encoders and fractions by datasets; verdicts by fraction, the largest fraction first."""
    rows = []
    for encoder in grid.encoders[1:]:
        for fraction in sorted(verdicts, reverse=True):
            found = [verdicts[fraction].get((encoder, dataset)) for dataset in datasets]
            if any(found):
                rows.append([encoder, percent(fraction), *map(verdict_cell, found)])
    return Table(["encoder", "patients", *datasets], rows)


def verdict_cell(comparison: Comparison | None) -> str:
    """The verdict, and below it the difference and what could have been found."""
    if comparison is None:
        return "–"
    if comparison.verdict == "not estimable":
        return comparison.verdict
    limits = (comparison.low, comparison.high)
    difference = tables.with_signs(
        {"difference": comparison.difference, "low": limits[0], "high": limits[1]}
    )
    found = tables.number(known(comparison.detectable))
    return f"{comparison.verdict}\n{difference}\nfound from {found}"


def verdicts_csv(verdicts: Mapping[tuple[str, float], Verdicts]) -> str:
    """Every comparison; verdicts by protocol and fraction."""
    numbers = [name for name in Comparison._fields if name != "labels"]
    lines = []
    for (protocol, fraction), found in verdicts.items():
        for (encoder, dataset), comparison in found.items():
            line = dict(protocol=protocol, fraction=fraction, encoder=encoder, dataset=dataset)
            lines.append(line | {name: getattr(comparison, name) for name in numbers})
    return to_csv(["protocol", "fraction", "encoder", "dataset", *numbers], lines)


def exposure_block(grid: Grid) -> Table:
    """Of every test set the share that each encoder saw while it was pretrained."""
    known: dict[tuple[str, str], Cell] = {}
    for cell in grid.cells:
        if cell.state == "done":
            known.setdefault((cell.encoder, cell.dataset), cell)
    rows = []
    for encoder in grid.encoders:
        cells = [known.get((encoder, dataset)) for dataset in grid.datasets]
        rows.append([encoder, *map(_exposure_cell, cells)])
    return Table(["encoder", *grid.datasets], rows)


def _exposure_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.encoder == RANDOM:
        return "not pretrained"
    if cell.exposure is None:
        return "not known"
    seen = cell.exposure
    if not seen.images and not seen.patients:  # None: no patient can be compared
        return f"none of {seen.test_images:,} images"
    share = 100 * seen.images / seen.test_images
    text = f"{seen.images:,} of {seen.test_images:,} images ({share:.1f} %)\n"
    if not beyond_chance(seen.images, seen.patients, seen.test_images):
        return text + "so few agree by chance"
    if seen.patients is None:
        return text + "patients not known"
    return text + f"{seen.patients:,} by a patient who was seen"

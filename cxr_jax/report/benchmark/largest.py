"""The largest fraction of a benchmark: its ROC curves, calibration, subgroups and images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.report import calibration, figures, panels, subgroups, tables
from cxr_jax.report.benchmark.grid import Cell, Grid, percent, plain, read_group, without_ids
from cxr_jax.report.benchmark.scores import Measured, Place
from cxr_jax.report.benchmark.tables import title_of, write_csv
from cxr_jax.report.blocks import Block, Bullets, Heading, Picture, Text
from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.predictions import Predictions, take_labels


class Largest(NamedTuple):
    """One protocol and dataset at the largest fraction; all images are in one order.

    `read` holds the predictions of the place's labels, of all seeds. `images` holds the images of
    each encoder that has a usable table of them, of whatever cell.
    """

    protocol: str
    dataset: str
    fraction: float
    place: Place
    read: dict[Cell, Predictions]
    images: dict[str, ImageTable]

    @property
    def title(self) -> str:
        return f"{self.dataset}: {title_of(self.protocol).lower()}"

    @property
    def seed(self) -> int:
        """The first that has a result."""
        return min(cell.seed for cell in self.read)

    @property
    def caption(self) -> str:
        """The training that the numbers of one seed come from."""
        return f"{self.title}, {percent(self.fraction)} of the training patients, seed {self.seed}"

    @property
    def key(self) -> dict[str, Any]:
        """The first columns of a line in tables/."""
        return dict(protocol=self.protocol, dataset=self.dataset, fraction=self.fraction)

    def runs(self, encoders: Sequence[str]) -> list[tuple[str, Predictions]]:
        """Returns the first seed's predictions, in the encoders' order."""
        by_name = {cell.encoder: held for cell, held in self.read.items() if cell.seed == self.seed}
        return [(name, by_name[name]) for name in encoders if name in by_name]


def read_largest(workdir: Path, grid: Grid, measured: Measured) -> list[Largest]:
    """Reads dataset by dataset, protocol by protocol; unusable image tables become notes."""
    refused = {cell.folder for cell in measured.failed}
    held = []
    for dataset in grid.datasets:
        for protocol in grid.protocols:
            key = (protocol, dataset, grid.fractions(protocol)[-1])
            place = measured.places.get(key)
            if place is None:
                continue
            cells = [c for c in grid.cells if c.group == key and c.folder not in refused]
            read, _ = read_group(workdir, cells, grid.reference)
            read = {cell: take_labels(one, place.labels) for cell, one in read.items()}
            image_ids = next(iter(read.values())).image_id
            images, notes = _images(workdir, grid, dataset, image_ids)
            measured.notes.extend(notes)
            held.append(Largest(*key, place, read, images))
    return held


def _images(
    workdir: Path, grid: Grid, dataset: str, image_ids
) -> tuple[dict[str, ImageTable], list[str]]:
    """By encoder the first usable table of these images, and why others cannot be used."""
    images, notes = {}, []
    for cell in grid.cells:
        path = workdir / cell.folder / "films.parquet"
        if (cell.dataset, cell.state) != (dataset, "done") or cell.encoder in images:
            continue
        if not path.exists():  # the folder is older than these tables
            continue
        try:
            table = image_table.read_parquet(path)
            images[cell.encoder] = image_table.in_order(table, image_ids)
        except (ValueError, OSError) as error:
            reason = without_ids(str(error).replace(str(workdir), "."))
            notes.append(f"{dataset}, {cell.encoder}: the table of images is not used: {reason}.")
    return images, notes


def sections(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    """Returns ROC curves, calibration and subgroups of the first seed; writes tables of the two."""
    rocs: list[Block] = []
    for held in largest:
        path, labels = _path(workdir, grid, "roc", held), held.place.labels
        drawn = tables.listed(figures.roc(path, held.runs(grid.encoders), labels), labels)
        rocs += [Heading(held.title, 3), Picture(path, f"{held.caption}: {drawn}")]
    return [
        *([Heading("ROC curves"), *rocs] if rocs else []),
        *_calibration(workdir, grid, largest, num_resamples),
        *_subgroups(workdir, grid, largest, num_resamples),
    ]


def _path(workdir: Path, grid: Grid, kind: str, held: Largest) -> Path:
    return workdir / "figures" / f"{kind}-{held.protocol}-{plain(grid, held.dataset)}.png"


def _calibration(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    parts: list[Block] = []
    lines = []
    for held in largest:
        path, labels = _path(workdir, grid, "calibration", held), held.place.labels
        runs = held.runs(grid.encoders)
        shown, found = calibration.blocks(
            path, runs, labels, num_resamples, held.caption, every_label=False
        )
        parts += [Heading(held.title, 3), *shown]
        for name, rows in found.items():
            # The mean of a single label would only repeat it.
            rows = [row._asdict() for row in rows[: -1 if len(rows) == 2 else None]]
            lines += _lines(held, name, rows)
    write_csv(workdir, "calibration", lines)
    reading = map(Text, calibration.READING if lines else ())
    return [Heading("Calibration"), *reading, *parts] if parts else []


def _subgroups(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    parts: list[Block] = []
    lines = []
    for held in largest:
        if not held.images:
            continue
        runs, labels = held.runs(grid.encoders), held.place.labels
        what = f"AUROC for {labels[0]}" if len(labels) == 1 else "macro AUROC"
        # Sex, age and projection are of the images, the same whatever the encoder.
        shown, found = subgroups.blocks(
            runs,
            next(iter(held.images.values())),
            num_resamples,
            f"{held.caption}: {what} within each group, 95 % interval.",
        )
        parts += [Heading(held.title, 3), *shown]
        for group in found:
            for (name, _), row in zip(runs, group.rows):
                row = row._asdict()
                line = dict(fact=group.facet, group=row.pop("group"), images=group.images) | row
                lines += _lines(held, name, [line])
    write_csv(workdir, "subgroups", lines)
    if without := dict.fromkeys(held.dataset for held in largest if not held.images):
        parts.append(Text(f"Sex, age and projection are not known on {', '.join(without)}."))
    method = [Text(subgroups.METHOD)] if lines else []
    return [Heading(subgroups.TITLE), *method, *parts] if parts else []


def _lines(held: Largest, encoder: str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [held.key | dict(seed=held.seed, encoder=encoder) | row for row in rows]


def images(workdir: Path, grid: Grid) -> list[Block]:
    """Returns the images that cells of the largest fraction left; empty where none are drawn."""
    found: list[Block] = []
    meanings = []
    for dataset in grid.datasets:
        for protocol in grid.protocols:
            key = (protocol, dataset, grid.fractions(protocol)[-1])
            for cell in grid.cells:
                pictures = panels.drawn(workdir / cell.folder) if cell.group == key else {}
                if cell.state == "done" and pictures:
                    title = f"{dataset}: {title_of(protocol).lower()}, {cell.encoder}"
                    found += [Heading(title, 3), *pictures.values()]
                    meanings += pictures
    if not found:
        return []
    how_to_read = Bullets(list(dict.fromkeys(meanings)))
    return [Heading("Images"), Text(panels.EITHER_WAY), how_to_read, *found]

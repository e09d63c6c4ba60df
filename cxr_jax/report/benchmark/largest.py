"""The largest fraction of a benchmark: its ROC curves, calibration, subgroups and images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxr_jax.report import calibration, charts, panels, subgroups, tables
from cxr_jax.report.benchmark.grid import Cell, Grid, percent, plain, read_group, without_ids
from cxr_jax.report.benchmark.scores import Measured, Place
from cxr_jax.report.benchmark.tables import title_of, value_of, write_csv
from cxr_jax.report.blocks import Block, Bullets, Heading, Picture, Table, Text
from cxr_jax.report.tables import Value
from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.predictions import Predictions, take_labels


class Largest(NamedTuple):
    """One protocol and dataset at the largest fraction; all images are in one order.

    `read` holds the predictions of the place's labels, of all seeds. `images` holds the images of
    each encoder's pretrainings that have a usable table of them, of whatever cell.
    """

    protocol: str
    dataset: str
    fraction: float
    place: Place
    read: dict[Cell, Predictions]
    images: dict[tuple[str, int], ImageTable]

    @property
    def title(self) -> str:
        return f"{self.dataset}: {title_of(self.protocol).lower()}"

    @property
    def seed(self) -> int:
        """The first that has a result."""
        return min(cell.seed for cell in self.read)

    @property
    def setting(self) -> str:
        """The training that the numbers of one seed come from."""
        return f"{percent(self.fraction)} of the training patients, seed {self.seed}"

    def key(self, encoder: str) -> dict[str, Any]:
        """Returns the first columns of a line in tables/ on the first seed."""
        place = dict(protocol=self.protocol, dataset=self.dataset, fraction=self.fraction)
        return place | dict(seed=self.seed, encoder=encoder)

    def runs(self, encoders: Sequence[str]) -> list[tuple[str, Predictions]]:
        """Returns the first seed's and pretraining's predictions, in the encoders' order."""
        cells = sorted(self.read, key=lambda cell: -cell.pretraining)  # the last one stays
        by_name = {cell.encoder: self.read[cell] for cell in cells if cell.seed == self.seed}
        return [(name, by_name[name]) for name in encoders if name in by_name]


def read_largest(workdir: Path, grid: Grid, measured: Measured) -> list[Largest]:
    """Reads dataset by dataset, protocol by protocol; unusable image tables become notes."""
    refused = {cell.folder for cell in measured.failed}
    held = []
    for key in grid.largest_groups:
        place = measured.places.get(key)
        if place is None:
            continue
        cells = [c for c in grid.cells if c.group == key and c.folder not in refused]
        read, _ = read_group(workdir, cells, grid.reference)
        read = {cell: take_labels(one, place.labels) for cell, one in read.items()}
        images = _images(workdir, grid, key[1], next(iter(read.values())), measured.notes)
        held.append(Largest(*key, place, read, images))
    return held


def _images(
    workdir: Path, grid: Grid, dataset: str, predictions: Predictions, notes: list[str]
) -> dict[tuple[str, int], ImageTable]:
    """Returns by encoder and pretraining the first usable table; notes why others are not used."""
    images = {}
    for cell in grid.cells:
        path, whose = workdir / cell.folder / "films.parquet", (cell.encoder, cell.pretraining)
        if (cell.dataset, cell.state) != (dataset, "done") or whose in images:
            continue
        if not path.exists():  # the folder is older than these tables
            continue
        try:
            table = image_table.read_parquet(path)
            images[whose] = image_table.in_order(table, predictions.image_id)
        except (ValueError, OSError) as error:
            reason = without_ids(str(error).replace(str(workdir), "."))
            notes.append(f"{dataset}, {cell.encoder}: the table of images is not used: {reason}.")
    return images


def labels(
    workdir: Path, grid: Grid, largest: Sequence[Largest], measured: Measured
) -> list[Block]:
    """Returns AUROC label by label, a table for each protocol; writes tables/labels.csv."""
    parts: list[Block] = []
    lines = []
    for protocol in grid.protocols:
        rows = []
        for held in (one for one in largest if one.protocol == protocol):
            alone = measured.labels[protocol, held.dataset, held.fraction]
            first = next(iter(held.read.values()))
            for label, targets in zip(first.label_names, first.targets.T):
                counts = {f"n_{kind}": int((targets == k).sum()) for kind, k in _CLASSES.items()}
                values = {name: value_of(score) for name, score in alone[label].items()}
                cells = (values.get(name, Value()).words for name in grid.encoders)
                rows.append([held.dataset, label, *(f"{n:,}" for n in counts.values()), *cells])
                place = dict(protocol=protocol, dataset=held.dataset, fraction=held.fraction)
                for name, value in values.items():
                    lines.append(place | dict(label=label, encoder=name) | counts | value._asdict())
        header = ["dataset", "label", "positive", "negative", *grid.encoders]
        parts += [Heading(title_of(protocol), 3), Table(header, rows)] if rows else []
    write_csv(workdir, "labels", lines)
    said = "All training patients or the largest share; means over seeds, with 95 % intervals."
    said += f" Counts are of test images. {tables.MINIMUM_SAID}"
    return [Heading("Label by label"), Text(said), *parts] if parts else []


_CLASSES = {"pos": 1, "neg": 0}


def sections(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    """Returns ROC curves, calibration and subgroups of the first seed; writes tables of the two."""
    rocs: list[Block] = []
    largest = [held for held in largest if held.place.measure == "AUROC"]
    for held in largest:
        given = held.runs(grid.encoders), held.place.labels
        drawn = charts.roc(_path(workdir, grid, "roc", held), *given, held.title)
        rocs += [Heading(held.title, 3), drawn]
    return [
        *([Heading("ROC curves"), _settings(largest), *rocs] if rocs else []),
        *_calibration(workdir, grid, largest, num_resamples),
        *_subgroups(workdir, grid, largest, num_resamples),
    ]


def _settings(largest: Sequence[Largest]) -> Text:
    """Returns what the numbers of single seeds come from, place by place where it differs."""
    by_setting: dict[str, list[str]] = {}
    for held in largest:
        by_setting.setdefault(held.setting, []).append(held.title)
    if len(by_setting) == 1:
        return Text(f"Of {next(iter(by_setting))}.")
    said = (f"{', '.join(titles)}: {setting}" for setting, titles in by_setting.items())
    return Text(f"{'; '.join(said)}.")


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
        given = (path, runs, labels, num_resamples, held.title)
        shown, found = calibration.blocks(*given, every_label=False)
        parts += [Heading(held.title, 3), *shown]
        for name, rows in found.items():
            lines += [held.key(name) | row._asdict() for row in tables.shown(rows)]
    write_csv(workdir, "calibration", lines)
    reading = map(Text, calibration.READING if lines else ())
    return [Heading("Calibration"), *reading, _settings(largest), *parts] if parts else []


def _subgroups(
    workdir: Path, grid: Grid, largest: Sequence[Largest], num_resamples: int
) -> list[Block]:
    parts: list[Block] = []
    lines = []
    for held in (one for one in largest if one.images):
        runs, labels = held.runs(grid.encoders), held.place.labels
        what = f"AUROC for {labels[0]}" if len(labels) == 1 else "macro AUROC"
        caption = f"{what[0].upper()}{what[1:]} within each group, 95 % interval; {held.setting}."
        images = next(iter(held.images.values()))  # sex, age, projection: alike for every encoder
        shown, found = subgroups.blocks(runs, images, num_resamples, caption)
        parts += [Heading(held.title, 3), *shown]
        for group in found:
            for (name, _), row in zip(runs, group.rows):
                what = dict(fact=group.facet, group=row.group, images=group.images)
                lines.append(held.key(name) | what | row._asdict())
    write_csv(workdir, "subgroups", lines)
    if without := dict.fromkeys(held.dataset for held in largest if not held.images):
        parts.append(Text(f"Sex, age and projection are not known on {', '.join(without)}."))
    method = [Text(subgroups.METHOD)] if lines else []
    return [Heading(subgroups.TITLE), *method, *parts] if parts else []


def images(
    workdir: Path, grid: Grid, leading: tuple[str, str, Sequence[str]] | None
) -> list[Block]:
    """Returns pictures of the reference and of the leading encoder; empty where none are drawn.

    Of each dataset they are those of the first protocol that has any: pictures of more would make
    the page too large to send.
    """
    found: list[Block] = []
    meanings: dict[str, Picture] = {}
    shown = [grid.reference, *([leading[1]] if leading else [])]
    done = set()
    for key in grid.largest_groups:
        for name in shown if key[1] not in done else ():
            cells = (cell for cell in grid.cells if (cell.group, cell.encoder) == (key, name))
            for cell in cells:
                pictures = panels.drawn(workdir / cell.folder) if cell.state == "done" else {}
                title = f"{cell.dataset}: {title_of(cell.protocol).lower()}, {cell.encoder}"
                found += [Heading(title, 3), *pictures.values()] if pictures else []
                meanings |= pictures
                if pictures:
                    done.add(key[1])
                    break
    if not found:
        return []
    others = f"Pictures are of {' and '.join(shown)}, of one protocol and seed a dataset; others "
    others += "are in the folders pictures/ of their cells."
    return [
        *(Heading("Images"), Text(panels.EITHER_WAY), Text(others)),
        *(Bullets(list(meanings)), *found),
    ]

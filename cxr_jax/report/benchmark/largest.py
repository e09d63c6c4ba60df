"""What is shown at the largest fraction alone: predictions, and what is known of the images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cxr_jax.report.benchmark.grid import Cell, Grid, percent, read_group, take_labels, without_ids
from cxr_jax.report.benchmark.scores import Measured, Place
from cxr_jax.report.benchmark.tables import TITLES
from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.predictions import Predictions


class Largest(NamedTuple):
    """One protocol and dataset at the largest fraction; all images stand in one order.

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
        return f"{self.dataset}: {TITLES.get(self.protocol, self.protocol).lower()}"

    @property
    def seed(self) -> int:
        """The first that has a result."""
        return min(cell.seed for cell in self.read)

    @property
    def how(self) -> str:
        """Of what one training's numbers are, for captions."""
        return f"{percent(self.fraction)} of the training patients, seed {self.seed}"

    def runs(self, encoders: Sequence[str]) -> list[tuple[str, Predictions]]:
        """The first seed's predictions, in the encoders' order."""
        by_name = {cell.encoder: held for cell, held in self.read.items() if cell.seed == self.seed}
        return [(name, by_name[name]) for name in encoders if name in by_name]


def read_largest(workdir: Path, grid: Grid, measured: Measured) -> list[Largest]:
    """Dataset by dataset, protocol by protocol; image tables that cannot be used become notes."""
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
        if not path.exists():  # a folder that was made before these tables were
            continue
        try:
            table = image_table.read_parquet(path)
            images[cell.encoder] = image_table.in_order(table, image_ids)
        except (ValueError, OSError) as error:
            reason = without_ids(str(error).replace(str(workdir), "."))
            notes.append(f"{dataset}, {cell.encoder}: the table of images is not used: {reason}.")
    return images, notes

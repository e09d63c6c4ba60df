"""The grid of a benchmark: cells.json, and the predictions of the cells done."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cxr_jax.io.json import read_json
from cxr_jax.io.text import plain as terminal_plain
from cxr_jax.transfer.predictions import Predictions, align, read_parquet, take_images, take_labels

_STATES = ("done", "failed", "missing")
# Old names of fields of cells.json.
_RENAMED = dict(exposure="seen", films="images", num_films="num_images", test_films="test_images")
_MAX_ERROR = 300
# Characters of an error that are searched: the time grows with the square of the length.
_MAX_READ = 2000
_MAX_BYTES = 20_000_000  # 50,000 cells
_MOST_RESAMPLES = 1_000_000


class Seen(NamedTuple):
    """Counts of the test images that the encoder saw while it was pretrained.

    `images` by their looks, `patients` by their patient; None where that cannot be known.
    """

    patients: int | None
    images: int
    test_images: int


class Cell(NamedTuple):
    """One encoder trained and scored once. `dataset` names the task too, where there is one.

    It names a cross-validation where not every cell of the grid is of the same one.

    `pretraining` numbers those of an encoder from 0.

    `num_images` were trained on (0 where the cell never began); `seen` is None where that is not
    known. `error` can be printed: one line, without ids.
    """

    encoder: str
    dataset: str
    protocol: str
    fraction: float
    seed: int
    num_images: int
    folder: str
    state: str
    error: str
    seen: Seen | None
    patient_note: str = ""  # what to know of whose the dataset's images are
    pretraining: int = 0
    splits: str = ""  # the list of others that split the dataset's images
    folds_of: str = ""  # of a cross-validation: the splits whose images it scored, joined by +

    @property
    def group(self) -> tuple[str, str, float]:
        """Cells that are compared with each other share it."""
        return self.protocol, self.dataset, self.fraction


class Grid(NamedTuple):
    """All cells, done or not, and the encoder that the others are compared with.

    `num_resamples` of patients are what the report draws unless told otherwise.
    """

    reference: str
    cells: tuple[Cell, ...]
    num_resamples: int = 1000

    @property
    def encoders(self) -> list[str]:
        """The encoders' names, the reference first."""
        return list(dict.fromkeys([self.reference, *(cell.encoder for cell in self.cells)]))

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(cell.dataset for cell in self.cells))

    @property
    def protocols(self) -> list[str]:
        return list(dict.fromkeys(cell.protocol for cell in self.cells))

    @property
    def largest_groups(self) -> list[tuple[str, str, float]]:
        """Protocol, dataset and the protocol's largest fraction, dataset by dataset."""
        largest = {protocol: self.fractions(protocol)[-1] for protocol in self.protocols}
        return [(*each, largest[each[0]]) for each in self.places]

    @property
    def places(self) -> list[tuple[str, str]]:
        """Protocols and datasets, dataset by dataset."""
        return [(protocol, dataset) for dataset in self.datasets for protocol in self.protocols]

    def pretrainings(self, encoder: str) -> int:
        """Returns how many pretrainings the encoder is, with a result or without."""
        return 1 + max(cell.pretraining for cell in self.cells if cell.encoder == encoder)

    def fractions(self, protocol: str) -> list[float]:
        """Returns those of one protocol, rising."""
        return sorted({cell.fraction for cell in self.cells if cell.protocol == protocol})


def read_grid(workdir: Path) -> Grid:
    """Reads the grid in workdir/cells.json.

    Raises ValueError, naming the cell, for a file that is damaged or contradicts itself, and for
    encoders that were trained on different numbers of images under one fraction and seed.
    """
    path = workdir / "cells.json"
    held = read_json(path, most=_MAX_BYTES)
    try:
        unnamed = _folds_of_all(held["cells"])
        cells = tuple(_cell(entry, unnamed) for entry in held["cells"])
        grid = Grid(held["reference"], cells, int(held.get("num_resamples", 1000)))
    except KeyError as error:
        raise ValueError(f"{path}: a cell, or the whole, has no field {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({terminal_plain(str(error))})") from error
    if not 1 <= grid.num_resamples <= _MOST_RESAMPLES:
        raise ValueError(f"{path}: num_resamples is {grid.num_resamples}")
    if not _is_word(grid.reference):
        raise ValueError(f"{path}: the reference is not text")
    if grid.reference not in {cell.encoder for cell in grid.cells}:
        raise ValueError(f"{path}: the reference '{grid.reference}' is not the encoder of any cell")
    images, seen = {}, set()
    for cell in grid.cells:
        if cell.state not in _STATES:
            raise ValueError(f"{path}: {cell.folder} is '{cell.state}', not {', '.join(_STATES)}")
        place = (*cell.group, cell.seed)
        whose = (*place, cell.encoder, cell.pretraining)
        if whose in seen:
            raise ValueError(f"{path}: {cell.folder} is there twice")
        seen.add(whose)
        if cell.state == "done" and images.setdefault(place, cell.num_images) != cell.num_images:
            raise ValueError(
                f"{path}: {cell.folder} was trained on {cell.num_images} images, another encoder "
                f"there on {images[place]}: encoders are compared on the same training images"
            )
    return grid


def _folds_of_all(entries: Sequence[dict]) -> set[str]:
    """Returns "folds=5", "folds_of=train+validation" where every cell is of these folds.

    The report says them once, and not with every dataset's name.
    """
    own = [set(entry["task"].split("@")[1:]) for entry in entries]
    shared = set.intersection(*own) if own else set()
    return {field for field in shared if field.startswith("folds")}


def _cell(entry: dict, unnamed: set[str]) -> Cell:
    entry = _with_new_names(entry)
    if (seen := entry["seen"]) is not None:
        seen = _with_new_names(seen)
        patients = None if seen["patients"] is None else int(seen["patients"])
        seen = Seen(patients, int(seen["images"]), int(seen["test_images"]))
    names = ("encoder", "dataset", "task", "protocol", "folder", "state")
    if odd := [name for name in names if not _is_word(entry[name])]:
        raise ValueError(f"a cell's {odd[0]} is not text")
    folder = PurePosixPath(entry["folder"])
    if folder.is_absolute() or ".." in folder.parts:
        raise ValueError("a cell's folder is not in the workdir")
    if not 0 < float(entry["fraction"]) <= 1:
        raise ValueError("a cell's fraction is not in (0, 1]")
    task = ", ".join(part for part in entry["task"].split("@") if part and part not in unnamed)
    dataset = f"{entry['dataset']} ({task})" if task else entry["dataset"]
    return Cell(
        encoder=entry["encoder"],
        dataset=dataset,
        protocol=entry["protocol"],
        fraction=float(entry["fraction"]),
        seed=int(entry["seed"]),
        num_images=int(entry["num_images"] or 0),
        folder=entry["folder"],
        state=entry["state"],
        error=without_ids(entry.get("error") or ""),
        seen=seen,
        patient_note=note if _is_word(note := entry.get("patient_note") or "") else "",
        pretraining=int(entry.get("pretraining", 0)),
        splits=of if _is_word(of := entry.get("splits") or "") else "",
        folds_of=of if _is_word(of := entry.get("folds_of") or "") else "",
    )


def _with_new_names(entry: dict) -> dict:
    return {_RENAMED.get(name, name): value for name, value in entry.items()}


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) < 1000


def without_ids(message: str) -> str:
    """Returns the first line of an error, cut short, without anything that may be an id.

    That is everything in quotes, except after "label", "column", "split" or "task", and what holds
    a digit after "image", "film", "patient" or "study".

    >>> without_ids("image 'p1.png' has no row for label 'Mass'")
    "image '…' has no row for label 'Mass'"
    """
    line = (message.strip().splitlines() or [""])[0]
    end = r"(?=[\s,:;.)\]]|$)"
    quoted = rf"('.*?'|\".*?\"){end}"
    if len(line) > _MAX_READ:  # through a word, or through what is in quotes
        line = line[:_MAX_READ].rpartition(" ")[0]
        quoted = rf"({quoted}|['\"].*)"
    line = re.sub(rf"(?<!label )(?<!column )(?<!split )(?<!task ){quoted}", "'…'", line)
    line = re.sub(r"\b(image|film|patient|study)(s?|_id)(:? )[^\s']*\d\S*", r"\1\2\3'…'", line)
    return line if len(line) <= _MAX_ERROR else line[: _MAX_ERROR - 1] + "…"


def read_group(
    workdir: Path, cells: Sequence[Cell], reference: str
) -> tuple[dict[Cell, Predictions], list[Cell]]:
    """Reads the done cells of one protocol and dataset, with the images in one order for all.

    The second value is the cells whose file cannot be used, as failed ones with the reason: it is
    unreadable, or not of the images of the first usable cell, one of the reference where possible.
    Labels may differ from cell to cell, but at least one is shared.
    """
    read, refused = {}, []
    done = [cell for cell in cells if cell.state == "done"]
    for cell in sorted(done, key=lambda cell: cell.encoder != reference):
        try:
            own = read_parquet(workdir / cell.folder / "predictions.parquet")
            if read:
                other, first = next(iter(read.items()))
                common = [name for name in first.label_names if name in own.label_names]
                if not common:
                    raise ValueError(f"no label in common with {other.folder}")
                align(take_labels(first, common), take_labels(own, common))
                order = np.argsort(own.image_id)
                place = np.searchsorted(own.image_id, first.image_id, sorter=order)
                own = take_images(own, order[place])
            read[cell] = own
        except (ValueError, OSError) as error:
            reason = f"not usable: {without_ids(str(error).replace(str(workdir), '.'))}"
            refused.append(cell._replace(state="failed", error=reason))
    return read, refused


def common_labels(read: Mapping[Cell, Predictions]) -> tuple[list[str], list[str]]:
    """Returns the labels that all cells have, and notes that say which encoder lacks the others."""
    common, left_out = [], {}
    for name in dict.fromkeys(name for held in read.values() for name in held.label_names):
        lacking = {cell.encoder: 0 for cell, held in read.items() if name not in held.label_names}
        if lacking:
            left_out.setdefault(", ".join(lacking), []).append(name)
        else:
            common.append(name)
    notes = [
        f"{', '.join(names)} {'are' if len(names) > 1 else 'is'} left out for all encoders: "
        f"no score from {lacking}"
        for lacking, names in left_out.items()
    ]
    return common, notes


def plain(grid: Grid, dataset: str) -> str:
    """Returns a file name for a dataset, whose own may hold any sign; numbers keep names apart."""
    kept = "".join(sign if sign.isalnum() or sign in "_-" else "-" for sign in dataset)
    return f"{grid.datasets.index(dataset)}-{kept}"


def percent(fraction: float) -> str:
    """Returns "1 %" for 0.01."""
    return f"{100 * fraction:g} %"

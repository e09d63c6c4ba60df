"""The cells of a benchmark (encoders x datasets x protocols x fractions x seeds) and its plan."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import ml_collections

from cxr_jax import plugins, weights
from cxr_jax.data.dataset_info import find_folder
from cxr_jax.data.source import load_source
from cxr_jax.data.tasks import FRONTAL
from cxr_jax.experiments import _transfer_inputs
from cxr_jax.experiments._pretrainings import pretrainings
from cxr_jax.transfer import _folds
from cxr_jax.weights.encoder import Encoder

LAST = "seconds.json"  # how long a cell took; the last file that it writes
# Fields of a transfer that a dataset may have of its own: what is scored.
OWN = ("folds", "folds_of", "exclusive", "uncertain_as", "missing_as", "readers")
OWN += ("certainty", "projections")
_NAME = re.compile(r"[\w.-]*[\w-][\w.-]*")  # not "..", which is a folder


class Cell(NamedTuple):
    """One transfer of the grid; `pretraining` numbers those of an encoder from 0.

    `task` is all that config.datasets says behind the dataset's name: "TASK@FIELD=VALUE@…".
    """

    encoder: str
    spec: str
    dataset: str
    task: str
    protocol: str
    fraction: float
    seed: int
    pretraining: int = 0

    @property
    def folder(self) -> Path:
        """The cell's folder below the workdir."""
        dataset = "-".join(part for part in (self.dataset.replace("/", "-"), self.task) if part)
        # No name has a "+". The first keeps its folder when others come to it.
        encoder = f"{self.encoder}+{self.pretraining}" if self.pretraining else self.encoder
        places = (dataset, self.protocol, f"{self.fraction:g}", str(self.seed), encoder)
        return Path("cells", *places)


def grid(config: ml_collections.ConfigDict) -> list[Cell]:
    """Returns the cells in the order in which they run; those that share features are neighbours.

    Where all labels take part no patients are drawn: fine-tuning alone has a cell for every seed
    there, all else one cell with the first seed. Raises ValueError for fields that are empty,
    malformed, repeat themselves or do not fit a grid.
    """
    named = [_named(spec) for spec in _list(config.encoders, "encoders")]
    _once([name for name, _ in named], "encoders")
    encoders = {name: pretrainings(f"config.encoders: {name}", spec) for name, spec in named}
    for fraction in config.fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"config.fractions has {fraction}: shares lie above 0, at most at 1")
    _once([f"{fraction:g}" for fraction in config.fractions], "fractions")
    _once([str(seed) for seed in config.seeds], "seeds")
    if config.transfer.pictures.images:
        raise ValueError(
            "config.transfer.pictures.images names images of one dataset: give them to a transfer "
            "(configs/transfer.py)"
        )
    if config.transfer.export_features:
        raise ValueError(
            "config.transfer.export_features is one file, which every cell would write over: give "
            "it to a transfer (configs/transfer.py)"
        )
    if config.reference not in encoders:
        raise ValueError(
            f"config.reference={config.reference!r} is none of the encoders {', '.join(encoders)}"
        )
    for protocol in _list(config.protocols, "protocols"):
        plugins.find("cxr_jax.transfer", protocol, "make", "protocol")
    cells = []
    for dataset, (name, specs), protocol, fraction, seed in itertools.product(
        _list(config.datasets, "datasets"),
        encoders.items(),
        _list(config.protocols, "protocols"),
        config.fractions,
        config.seeds,
    ):
        if fraction == 1 and protocol != "finetune" and seed != config.seeds[0]:
            continue
        dataset, task = dataset_and_task(dataset)
        place = (dataset, task, protocol, float(fraction), int(seed))
        cells += [Cell(name, spec, *place, number) for number, spec in enumerate(specs)]
    for cell in {cell.task: cell for cell in cells}.values():
        transfer_config(config, cell)  # refuses fields that a dataset cannot have
    if not cells:
        raise ValueError("config.fractions and config.seeds must each hold a number")
    return cells


def dataset_and_task(spec: str) -> tuple[str, str]:
    """Splits "jsrt:nodule@folds=5" into dataset and task; "siim@exclusive=True" has no task.

    >>> dataset_and_task("siim@exclusive=True")
    ('siim', '@exclusive=True')
    """
    named, at, changes = spec.partition("@")
    dataset, _, task = named.partition(":")
    return dataset, task + at + changes


def transfer_config(config: ml_collections.ConfigDict, cell: Cell) -> ml_collections.ConfigDict:
    """Returns a copy of config.transfer for the cell's dataset, its task and its own fields.

    Raises ValueError for a field or value that a dataset cannot have of its own.
    """
    changed = config.transfer.copy_and_resolve_references()
    task, *own = cell.task.split("@")
    changed.update(dataset=cell.dataset, task=task or changed.task)
    _once([change.partition("=")[0] for change in own], f"datasets: {cell.dataset}: @")
    for field, _, text in (change.partition("=") for change in own):
        where = f"config.datasets: {cell.dataset}: @{field}={text}"
        if field not in OWN:
            raise ValueError(f"{where}: a dataset's own fields are {', '.join(OWN)}")
        kind = type(changed[field])
        text = text.replace("+", ",") if field == "projections" else text
        try:
            changed[field] = {"True": True, "False": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where}: config.{field} is a {kind.__name__}") from error
    try:
        _folds.check(changed)
    except ValueError as error:
        raise ValueError(f"{cell.dataset}: {error}") from error
    return changed


def _list(value: str, field: str) -> list[str]:
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"config.{field} is empty; name some, separated by commas")
    for before, part in itertools.pairwise(parts):
        if "@projections=" in before and part.partition("@")[0] in (*FRONTAL, "LATERAL"):
            raise ValueError(
                f"config.{field}: {before},{part}: commas part the {field}; several projections of "
                f"one are written {before}+{part}"
            )
    _once(parts, field)
    return parts


def _once(parts: list[str], field: str) -> None:
    if twice := {part for part in parts if parts.count(part) > 1}:
        raise ValueError(f"config.{field} names {', '.join(sorted(twice))} twice")


def _named(spec: str) -> tuple[str, str]:
    """Splits "simclr=runs/simclr" into ("simclr", "runs/simclr"); "random" names itself."""
    name, separator, path = spec.partition("=")
    if not separator and spec != "random":
        raise ValueError(f"config.encoders: {spec!r}: write NAME=SPEC, as in simclr={spec}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"config.encoders: {name!r}: a name has letters, digits, '_', '-' and '.'")
    return name, path if separator else "random"


def _obstacles(config, cells: list[Cell]) -> list[str]:
    """Returns what cells would fail for: encoders, datasets and tasks that are not there (yet)."""

    def missing(name, load, *arguments):
        try:
            load(*arguments)
        except (ValueError, OSError) as error:
            return [f"  WOULD FAIL: {name}: {error}"]
        return []

    own = {}
    for cell in cells:
        own[cell.dataset, cell.task, cell.protocol] = transfer_config(config, cell)
        own[cell.dataset, cell.task, cell.protocol].protocol = cell.protocol
    protocols = {of_cell.protocol: of_cell for of_cell in own.values()}.values()

    def read(spec):
        encoder = Encoder(spec, {}, {}, 1) if spec == "random" else weights.load(spec)
        for of_cell in protocols:
            _transfer_inputs.protocol(of_cell).reads(encoder)

    lines = []
    for name, spec in dict.fromkeys((cell.encoder, cell.spec) for cell in cells):
        lines += missing(name, read, spec)
    for (dataset, *_), of_cell in own.items():
        lines += missing(dataset, _transfer_inputs.protocol, of_cell)  # refuses folds it lacks
        lines += missing(dataset, _transfer_inputs.load_whole_splits, of_cell)
    return list(dict.fromkeys(lines))


def absent(config: ml_collections.ConfigDict, cells: list[Cell]) -> list[str]:
    """Says which encoders and datasets are not there, without reading any."""
    lines = []
    for spec in dict.fromkeys(cell.spec for cell in cells):
        source, path = weights.parse_spec(spec)
        if spec != "random" and source != "hf" and not Path(path).expanduser().exists():
            lines.append(f"no workdir or weights file {path}")
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        try:
            find_folder(dataset, config.data.dir)
        except (ValueError, OSError) as error:
            lines.append(str(error).partition(". ")[0])
    return lines


def plan(config: ml_collections.ConfigDict, cells: list[Cell], workdir: Path) -> str:
    """Returns the grid in words: what is done, what would fail, and the seconds that are left."""
    lines = [f"{len(cells)} cells (with all patients, frozen features need one seed):"]
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        for name in dict.fromkeys(cell.encoder for cell in cells):
            of = [cell for cell in cells if (cell.protocol, cell.encoder) == (protocol, name)]
            files = [workdir / cell.folder / LAST for cell in of]
            taken = [_seconds(path) for path in files if path.is_file()]
            seconds = (len(of) - len(taken)) * sum(taken) / max(len(taken), 1)
            cost = f"about {seconds:,.0f} s left" if taken else "cost unknown"
            done = f"{len(taken)} of {len(of)} cells done"
            lines.append(f"  {protocol:<10}{name:<16}{done}, {cost}")
    obstacles = _obstacles(config, cells)
    for dataset in dict.fromkeys(cell.dataset for cell in cells) if not obstacles else ():
        sizes = ", ".join(
            f"{len(load_source(dataset, config.data.dir, split, fields=('image',))):,} {split}"
            for split in ("train", "validation", "test")
        )
        lines.append(f"  {dataset}: {sizes} images, read once per encoder for all linear probes")
    last = "fix these, or run the rest as it is" if obstacles else "the same command"
    return "\n".join([*lines, *obstacles, "", f"Next: {last}, without --config.dry_run."])


def _seconds(path: Path) -> float:
    try:
        return float(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged; remove it to run that cell again") from error

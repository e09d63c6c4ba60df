"""Reports from predictions alone, without JAX.

python -m cxr_jax.report WORKDIR                 a benchmark's report again: WORKDIR/report.html;
                                                 of a transfer, its encoder against its baselines:
                                                 OUT/report.html
python -m cxr_jax.report A.parquet B.parquet …   A against the others, whatever software made them:
                                                 OUT/report.html
"""

import itertools
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cxr_jax.io import command_line, command_parser
from cxr_jax.io.text import in_words
from cxr_jax.report import transfer
from cxr_jax.report.benchmark import page as benchmark
from cxr_jax.transfer import image_table
from cxr_jax.transfer import predictions as files
from cxr_jax.transfer.image_table import ImageTable
from cxr_jax.transfer.metrics import compare, metric_rows
from cxr_jax.transfer.predictions import SCORE_KINDS, Predictions


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the path of the page."""
    parser = command_parser("python -m cxr_jax.report", __doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument(
        "--out", type=Path, help="the report's folder; default: comparison, here or in the WORKDIR"
    )
    parser.add_argument(
        "--num_resamples", type=int, help="default: 1000, of a WORKDIR its own number"
    )
    parser.add_argument(
        "--images",
        "--films",  # the old name
        type=Path,
        help="of A B …: a table (films.parquet) with image_id and any of sex, age (years), "
        "projection, seen_film and seen_patient (by A in its pretraining), for subgroups",
    )
    parser.add_argument(
        "--score_kind",
        choices=SCORE_KINDS[1:],
        default="",
        help="of A B …: what the scores are in files that do not say it; without it they only rank "
        "images and calibration is not judged",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the report that is in the folder already"
    )
    given = parser.parse_args(command_line(arguments))
    if given.num_resamples is not None and given.num_resamples < 1:
        parser.error(f"--num_resamples={given.num_resamples}: 1 or more")
    first, *others = given.paths
    if not others and (first / "cells.json").is_file():
        if given.images or given.score_kind:
            parser.error("--images and --score_kind are for files of predictions, not a WORKDIR")
        return benchmark.write(first, given.num_resamples)
    paths, images, out = given.paths, [given.images], given.out or Path("comparison")
    if not others and first.is_dir():
        paths = [first, *sorted(first.glob("baselines/*"))]
        tables = [path / "films.parquet" for path in paths]  # each says what its encoder had seen
        images = [table if table.is_file() else None for table in tables]
        images[0] = given.images or images[0]
        out = given.out or first / "comparison"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; name a folder")
    if (out / "report.html").exists() and not given.overwrite:
        raise ValueError(f"{out} holds a report already: --overwrite, or another --out=FOLDER")
    return compare_files(paths, out, given.num_resamples or 1000, images, given.score_kind)


def compare_files(
    paths: Sequence[Path],
    out: Path,
    num_resamples: int,
    images: Sequence[Path | None] = (),
    score_kind: str = "",
) -> Path:
    """Writes the report into `out`; the first predictions file is the encoder in question.

    The labels that all files have are compared. `images` are tables of the test images, whose
    seen_* are of the first files' encoders; `score_kind` is that of files that do not say it.
    Raises ValueError, naming file, image or label, for files that cannot be used, have no label in
    common or are not of the same images, and for scores that cannot be of the kind given.
    """
    paths = [_file(path) for path in paths]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    names = _names(paths)
    groups = [[_read(one, score_kind) for one in _pretrainings(path)] for path in paths]
    tables = [path and _images(path, group[0]) for path, group in zip(images, groups)]
    common, notes = [], []
    every = [one for group in groups for one in group]
    for label in dict.fromkeys(label for one in every for label in one.label_names):
        lacking = [
            name
            for name, group in zip(names, groups)
            if any(label not in one.label_names for one in group)
        ]
        if lacking:
            notes.append(f"{label} is left out: not in {', '.join(lacking)}.")
        else:
            common.append(label)
    if not common:
        raise ValueError(f"no label is in all of {', '.join(map(str, paths))}")
    if any(one.probabilities is None for one in every):
        notes.append(
            "Calibration needs probabilities: --score_kind=probability (or log-odds) says that "
            "scores are such."
        )
    groups = [[files.take_labels(one, common) for one in group] for group in groups]
    named = list(zip(names, groups))
    comparisons = [
        compare(groups[0], other, (names[0], name), num_resamples) for name, other in named[1:]
    ]
    runs = [
        transfer.Run(name, group[0], metric_rows(group, num_resamples), table, tuple(group[1:]))
        for (name, group), table in itertools.zip_longest(named, tables)
    ]
    out.mkdir(parents=True, exist_ok=True)
    others = names[1:] if len(names) < 4 else [f"{len(names) - 1} others"]
    return transfer.write_report(
        out,
        " against ".join([names[0], *others]),
        runs,
        comparisons,
        [
            f"95 % intervals from {num_resamples:,} resamples of the test patients.",
            "Made from predictions alone: how the models were trained is not known here.",
        ],
        notes,
        {name: path.as_posix() for name, path in zip(names, paths)},
        num_resamples=num_resamples,
        untrained="",  # what somebody calls random is a name like others
        command=shlex.join(["python", "-m", "cxr_jax.report", *map(str, paths), f"--out={out}"]),
    )


def _file(path: Path) -> Path:
    inside = path / "predictions.parquet"
    if inside.is_file():
        return inside
    if not path.is_file():
        what = "a predictions file nor the workdir of a transfer or a benchmark"
        raise ValueError(f"{path} is neither {what}")
    return path


def _pretrainings(path: Path) -> list[Path]:
    """Returns the file, and those below it of the encoder's other pretrainings."""
    below = path.parent.glob("pretrainings/*/predictions.parquet")
    return [path, *(sorted(below) if path.name == "predictions.parquet" else ())]


def _read(path: Path, score_kind: str) -> Predictions:
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ValueError(
            f"{path} is text; predictions are Parquet, of columns image_id, patient_id, "
            f"label, target, score: pandas.read_csv({path.name!r})"
            f".to_parquet({path.stem + '.parquet'!r})"
        )
    predictions = files.read_parquet(path)
    if predictions.score_kind or not score_kind:
        return predictions
    try:
        return files.validate(predictions._replace(score_kind=score_kind))
    except ValueError as error:
        raise ValueError(
            f"predictions file {path}: {error}. Give --score_kind=log-odds (or log-probability) if "
            "that is what the scores are; leave it out if they only rank images"
        ) from error


def _images(path: Path, predictions: Predictions) -> ImageTable:
    table = image_table.read_parquet(path)
    try:
        return image_table.in_order(table, predictions.image_id)
    except ValueError as error:
        raise ValueError(f"images file {path}: {error}: it needs every image scored") from error


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns file names where they differ, else the names of the folders, else the paths.

    A transfer numbers its baselines' folders: "random" is in baselines/1-random.

    >>> _names([Path("runs/zero_shot/predictions.parquet")])
    ['zero_shot']
    """
    folders = [path.absolute().parent for path in paths]
    plain = [
        re.sub(r"^\d+-", "", folder.name) if folder.parent.name == "baselines" else folder.name
        for folder in folders
    ]
    for names in ([path.stem for path in paths], plain, [folder.name for folder in folders]):
        if max(Counter(names).values()) == 1 and names != ["predictions"]:
            return names
    return [path.as_posix() for path in paths]


if __name__ == "__main__":
    try:
        print(f"Read the report: {main()}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {in_words(error)}")

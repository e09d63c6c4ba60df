"""Reports from predictions alone, without JAX.

python -m cxr_jax.report WORKDIR                 a benchmark's, again: WORKDIR/report.html
python -m cxr_jax.report A.parquet B.parquet …   A against the others, whatever software made them:
                                                 OUT/report.md
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cxr_jax.evaluate.metrics import compare, metric_rows
from cxr_jax.evaluate.predictions import read_parquet
from cxr_jax.report import benchmark, page
from cxr_jax.report.benchmark_cells import take_labels


def main(arguments: Sequence[str] | None = None) -> Path:
    """Writes what the command line asks for; returns the path of the page."""
    parser = argparse.ArgumentParser(
        prog="python -m cxr_jax.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument(
        "--out", type=Path, default=Path("comparison"), help="of A B …; %(default)s"
    )
    parser.add_argument("--num_resamples", type=int, default=1000, help="%(default)s")
    given = parser.parse_args(arguments)
    if len(given.paths) == 1 and given.paths[0].is_dir():
        return benchmark.write(given.paths[0], given.num_resamples)
    return compare_files(given.paths, given.out, given.num_resamples)


def compare_files(paths: Sequence[Path], out: Path, num_resamples: int) -> Path:
    """report.md in `out`: the first predictions file is the encoder in question.

    Compared are the labels that all files have. Raises ValueError, naming file, image or label, for
    files that cannot be used, have no label in common or are not of the same films.
    """
    names = _names(paths)
    every = [read_parquet(path) for path in paths]
    common = [
        label for label in every[0].label_names if all(label in one.label_names for one in every)
    ]
    if not common:
        raise ValueError(f"no label is in all of {', '.join(map(str, paths))}")
    left_out = dict.fromkeys(label for one in every for label in one.label_names)
    notes = [
        f"{label} is left out: not in {', '.join(lacking)}."
        for label in left_out
        if (lacking := [n for n, one in zip(names, every) if label not in one.label_names])
    ]
    every = [take_labels(one, common) for one in every]
    comparisons = [
        compare(every[0], other, (names[0], name), num_resamples)
        for name, other in zip(names[1:], every[1:])
    ]
    runs = [page.Run(name, one, metric_rows(one, num_resamples)) for name, one in zip(names, every)]
    out.mkdir(parents=True, exist_ok=True)
    protocol = [
        f"95 % intervals from {num_resamples:,} resamples of the test patients.",
        "Made from predictions alone: how the models were trained and chosen is not known here.",
    ]
    provenance = {name: path.as_posix() for name, path in zip(names, paths)}
    return page.write_report(
        out, f"{names[0]} on one test set", runs, comparisons, protocol, notes, provenance
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """File names where they differ, else the names of the folders, else the paths."""
    for names in ([path.stem for path in paths], [path.absolute().parent.name for path in paths]):
        if max(Counter(names).values()) == 1:
            return names
    return [path.as_posix() for path in paths]


if __name__ == "__main__":
    try:
        print(main())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

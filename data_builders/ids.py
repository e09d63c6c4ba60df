"""Whose is a hashed id of a result: python -m data_builders.ids NAME [ID …] --data_dir=data

Prints the films of a built dataset as CSV: split, image_id and patient_id as the dataset has them,
and as predictions.parquet, films.parquet, pictures/films.csv and exported features have them. Keep
what it prints where the data is.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_builders import built, built_info, project_key

COLUMNS = ("split", "image_id", "patient_id", "hashed_image_id", "hashed_patient_id")


def owner(folder: Path, parent: str) -> str:
    """Whose ids a dataset's are: its parent's, if it is made of another's films, else its own."""
    return parent or folder.parents[1].name


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """COLUMNS of every film of the version folder of a dataset."""
    builder = built_info.open_built(folder)
    parent = built_info.read_metadata(folder)["parent"]
    key, whose = project_key.read(folder.parents[2]), owner(folder, parent)
    for split in builder.info.splits:
        ids = built.read_columns(builder, split, ("image_id", "patient_id"))
        hashes = [
            project_key.hashed(key, what, whose, ids[f"{what}_id"]) for what in ("image", "patient")
        ]
        yield from zip([split] * len(hashes[0]), *ids.values(), *hashes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 1 where an ID was not found."""
    parser = argparse.ArgumentParser(prog="python -m data_builders.ids", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a built dataset")
    parser.add_argument("ids", metavar="ID", nargs="*", help="hashed or not; none: every film")
    parser.add_argument("--data_dir", default="data", help="where datasets stand (default: data)")
    args = parser.parse_intermixed_args(arguments)
    try:
        films = list(rows(built.find_folder(args.name, args.data_dir)))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    wanted = set(args.ids)
    found = [film for film in films if not wanted or wanted & set(film[1:])]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(found)
    unknown = len(wanted - {one for film in found for one in film[1:]})
    if unknown:
        print(f"{unknown} of {len(wanted)} ids are not in {args.name}.", file=sys.stderr)
    return int(bool(unknown))


if __name__ == "__main__":
    sys.exit(main())

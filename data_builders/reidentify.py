"""Finds whose the hashed ids of results are: python -m data_builders.reidentify NAME [ID …]

Prints the images of a built dataset as CSV: split, image_id and patient_id as the dataset has them,
and hashed as predictions.parquet, films.parquet, pictures/films.csv, nonfinite.csv and exported
features have them. Keep what it prints where the data is.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cxr_jax.data import dataset_info, pseudonyms, reader
from cxr_jax.io import command_line, image_io
from cxr_jax.io.text import composed, plain

COLUMNS = ("split", "image_id", "patient_id", "hashed_image_id", "hashed_patient_id")


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yields the COLUMNS of every image in the version folder of a dataset."""
    builder = dataset_info.open_built(folder)
    whose = pseudonyms.owner(folder, dataset_info.read_metadata(folder))
    key = pseudonyms.read(folder.parents[2])
    for split in builder.info.splits:
        ids = reader.read_columns(builder, split, ("image_id", "patient_id"))
        hashes = [
            pseudonyms.hashed(key, what, whose, ids[f"{what}_id"]) for what in ("image", "patient")
        ]
        yield from zip([split] * len(hashes[0]), *ids.values(), *hashes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 1 where an ID was not found."""
    parser = argparse.ArgumentParser(prog="python -m data_builders.reidentify", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="a built dataset")
    parser.add_argument(
        "ids", metavar="ID", nargs="*", help="hashed or not, or an image's file; none: every image"
    )
    parser.add_argument(
        "--data_dir", default="data", help="folder of the built datasets (default: data)"
    )
    args = parser.parse_intermixed_args(command_line(arguments))
    try:
        listed = list(rows(dataset_info.find_folder(args.name, args.data_dir)))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    known = {one for image in listed for one in image[1:]}
    ids = {given: composed(given) for given in args.ids}
    wanted = {k: one if one in known else image_io.without_suffix(one) for k, one in ids.items()}
    found = [
        image for image in listed if not wanted or not set(image[1:]).isdisjoint(wanted.values())
    ]
    try:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(found)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    unknown = [plain(given) for given, one in wanted.items() if one not in known]
    if unknown:
        which = ", ".join(unknown)
        count = f"{len(unknown)} of {len(wanted)} ids"
        print(f"{count} are not in {args.name}: {which}", file=sys.stderr)
    return int(bool(unknown))


if __name__ == "__main__":
    sys.exit(main())

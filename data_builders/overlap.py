"""Finds what two datasets share: python -m data_builders.overlap A B --data_dir=data

A and B are built datasets or the workdirs of pretraining runs (which keep the hashes of the images
they saw, but not the images). Patients are shared where the datasets use the same patient numbers
(REFLACX and MIMIC-CXR). Images are near-identical where their perceptual hashes differ in few bits
and, where both are at hand, their 32 x 32 pictures correlate.
"""

import argparse
import functools
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float
from PIL import Image

from cxr_jax.data import copies, seen_images
from cxr_jax.data.dataset_info import find_folder, open_built
from cxr_jax.data.reader import Records
from cxr_jax.io import COMMAND, command_line
from cxr_jax.io.atomic import atomic_write_csv
from data_builders.base import contact_sheet, parallel
from data_builders.build import draw_missing

PAIRS, COLUMNS = 24, 4
SIDE = 160  # pixels, of the picture of pairs


def table(
    a: seen_images.ImageHashes, b: seen_images.ImageHashes, pairs: seen_images.Pairs, same: bool
) -> list[str]:
    """Tabulates what is shared, split by split; each pair of splits once if both are the `same`."""
    rows = [("split of A", "split of B", "patients of both", "near-identical pairs")]
    for split_a in np.unique(a.split):
        for split_b in np.unique(b.split):
            if same and split_a > split_b:
                continue
            of_a, of_b = a.take(a.split == split_a), b.take(b.split == split_b)
            both = (a.split[pairs.a] == split_a) & (b.split[pairs.b] == split_b)
            if same:
                both |= (a.split[pairs.a] == split_b) & (b.split[pairs.b] == split_a)
            patients = f"{len(seen_images.shared_patients(of_a, of_b)):,}"
            if not (a.patient != "").any() or not (b.patient != "").any():
                patients = "unknown"
            elif same and split_a == split_b:
                patients = "–"
            rows.append((split_a, split_b, patients, f"{both.sum():,}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        for row in rows
    ]


class Side:
    """One of the two: its name, its images' hashes, and its images by place, if they are at hand.

    Opens a pretraining's workdir or a built dataset; raises FileNotFoundError, ValueError.
    """

    def __init__(self, name: str, data_dir: str):
        self.name, folder = name, Path(name).expanduser()
        self.at_hand = not seen_images.find(folder) or (folder / "dataset_info.json").is_file()
        if self.at_hand:
            folder = find_folder(name, data_dir)
            builder = open_built(folder)
            read = functools.partial(Records, builder, fields=("image", "image_id"))
            self._sources = {split: read(split) for split in builder.info.splits}
        self.hashes = seen_images.read(folder)

    def example(self, place: SupportsIndex) -> dict[str, Any]:
        """Returns what the dataset has of an image."""
        return self._sources[str(self.hashes.split[place])][int(self.hashes.row[place])]

    def picture(self, place: SupportsIndex) -> Image.Image:
        """Returns the image as stored."""
        return Image.open(io.BytesIO(self.example(place)["image"]))

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 (lives as long as the command)
    def thumbnail(self, place: SupportsIndex) -> Float[np.ndarray, " pixels"]:
        return copies.thumbnail(self.picture(place))


def compare(side_a: Side, side_b: Side, progress: bool = True) -> seen_images.Pairs:
    """Finds the near-identical images of two sides, the most alike first."""
    a, b = side_a.hashes, side_b.hashes
    at_hand = side_a.at_hand and side_b.at_hand
    limit = copies.MAX_DISTANCE if at_hand else seen_images.MAX_DISTANCE
    same = side_a.name == side_b.name
    with parallel.progress("hashes", len(a.phash), progress) as shown:
        pairs = seen_images.close_hashes(a.phash, b.phash, limit, same, shown.update)
    if at_hand:
        looks = (side_a.thumbnail, side_b.thumbnail)
        with parallel.progress("candidates", len(pairs.a), progress) as shown:
            correlation = copies.correlate(pairs.a, pairs.b, *looks, shown.update)
        pairs = pairs._replace(correlation=correlation)
        pairs = pairs.take(correlation >= copies.MIN_CORRELATION)
    return pairs.take(np.lexsort((-pairs.correlation, pairs.distance)))


def write_csv(path: Path, side_a: Side, side_b: Side, pairs: seen_images.Pairs) -> None:
    """Writes the pairs, image by image, with the datasets' ids where the images are at hand."""
    ends = [(f"dataset_{s}", f"split_{s}", f"row_{s}", f"image_id_{s}") for s in "ab"]
    lines = [(*ends[0], *ends[1], "same_patient", "bits", "correlation")]
    for i, j, bits, correlation in zip(*pairs):
        cells = []
        for side, row in ((side_a, i), (side_b, j)):
            of = side.hashes
            image_id = side.example(row)["image_id"].decode() if side.at_hand else ""
            cells += [of.dataset[row], of.split[row], int(of.row[row]), image_id]
        patients = side_a.hashes.patient[i], side_b.hashes.patient[j]
        same = int(patients[0] == patients[1] != "")
        shown = "" if np.isnan(correlation) else f"{correlation:.4f}"
        lines.append((*cells, same, bits, shown))
    atomic_write_csv(path, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, writes and reports; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data_builders.overlap",
        description="Lists patients and near-identical images that two datasets share.",
    )
    parser.add_argument("a", metavar="A", help="a built dataset, or a pretraining's workdir")
    parser.add_argument("b", metavar="B", help="another; the same one twice finds its duplicates")
    parser.add_argument("--data_dir", default="data", help="where datasets stand (default: data)")
    parser.add_argument("--output", help="folder of the list and the picture (overlap/A_B)")
    args = parser.parse_args(command_line(arguments))
    try:
        draw_missing((args.a, args.b), args.data_dir)
        side_a, side_b = (Side(name, args.data_dir) for name in (args.a, args.b))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    pairs = compare(side_a, side_b)
    names = [re.sub(r"[^\w.]+", "-", name).strip("-") for name in (args.a, args.b)]
    output = Path(args.output or f"overlap/{names[0]}_{names[1]}")
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "overlap.csv", side_a, side_b, pairs)
    print("\n".join(report(side_a, side_b, pairs, output, args.data_dir)))
    return 0


def report(
    side_a: Side, side_b: Side, pairs: seen_images.Pairs, output: Path, data_dir: str
) -> list[str]:
    """Says in words what was found, and draws the pairs."""
    same = side_a.name == side_b.name
    patients = seen_images.shared_patients(side_a.hashes, side_b.hashes)
    lines = [
        f"A: {side_a.name}, {len(side_a.hashes.row):,} images",
        f"B: {side_b.name}, {len(side_b.hashes.row):,} images",
        *table(side_a.hashes, side_b.hashes, pairs, same),
    ]
    if not (side_a.at_hand and side_b.at_hand):
        lines.append(
            f"Only hashes of the pretraining's images are kept: pairs that differ in at most "
            f"{seen_images.MAX_DISTANCE} of 64 bits, not looked at."
        )
    lines += ["", f"The pairs: {output / 'overlap.csv'}"]
    if len(pairs.a) and side_a.at_hand and side_b.at_hand:
        # Up to 24 places of the list, from its first to its last: the most and least alike.
        places = np.linspace(0, len(pairs.a) - 1, min(len(pairs.a), PAIRS))
        shown = np.unique(places.round().astype(int))
        cells = [
            (
                (side_a.picture(i), side_b.picture(j)),
                [f"row {place + 2}: {bits} of 64 bits differ, correlation {correlation:.3f}"],
            )
            for place, i, j, bits, correlation in zip(shown, *pairs.take(shown))
        ]
        sheet = contact_sheet.grid(cells, COLUMNS, SIDE, contact_sheet.GAP)
        sheet.save(output / "overlap.png", optimize=True)
        lines.append(
            f"Look at some of them: {output / 'overlap.png'} (rows are those of overlap.csv)"
        )
    if side_a.at_hand and not same and (len(pairs.a) or patients):
        lines += [
            "To pretrain on A without what B has:",
            f"  {COMMAND} --config=configs/moco.py:adapt "
            f"--config.init=torchvision:/weights/resnet50.pth --config.data.name={side_a.name} "
            f"--config.data.exclude={side_b.name} --config.data.dir={data_dir}",
        ]
    elif not side_a.at_hand and len(pairs.a):
        lines.append(f"To pretrain again without them: --config.data.exclude={side_b.name}")
    return lines


if __name__ == "__main__":
    sys.exit(main())

"""Builds a fake with the real builder, reads it back as users do, and compares the two.

A fake is a module of this folder: LAYOUTS, by name the ways its owner's files lie on people's
disks, and `write`, which writes one of them and returns what it says of each image.
"""

import csv
import fnmatch
import gzip
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_builders import build
from data_builders.base.records import BuildError

BoxFields = tuple[str, float, float, float, float]


class Built(NamedTuple):
    """A fake and what the builder made of it.

    Attributes:
      layout: the arguments of the fake's `write`.
      images: what the fake says of each image that can be read, by image id.
      folder: the version folder.
      splits: split -> examples.
    """

    layout: dict[str, Any]
    images: dict[str, Any]
    folder: Path
    splits: dict[str, list]

    @property
    def raw(self) -> Path:
        """The owner's files, beside the folder data."""
        return self.folder.parents[3] / "raw"

    @property
    def examples(self) -> dict[str, dict[str, Any]]:
        """image_id -> example with its split."""
        return by_image(self.splits)

    def paired(self) -> list[tuple[str, Any, dict[str, Any]]]:
        """(image id, image, example); checks that the ids are the same and the pixels alike."""
        examples = self.examples
        assert examples.keys() == self.images.keys()
        for image_id, image in self.images.items():
            assert grey_levels_apart(examples[image_id], image.picture) < 2, image_id
        return [(image_id, image, examples[image_id]) for image_id, image in self.images.items()]


def build_layout(name: str, fake: ModuleType, layout: str, folder: Path, **settings: Any) -> Built:
    """Writes one of the fake's LAYOUTS into `folder`/raw and builds it into `folder`/data."""
    raw, arguments = folder / "raw", fake.LAYOUTS[layout]
    raw.mkdir()
    images = fake.write(raw, **arguments)
    return Built(arguments, images, *build_beside(name, raw, **settings))


def build_beside(name: str, raw: Path, **settings: Any) -> tuple[Path, dict[str, list]]:
    """Builds the owner's files in `raw` into the folder data beside it."""
    return build_and_read(name, raw.parent / "data", manual_dir=raw, **settings)


def build_and_read(name: str, data_dir: Path, **settings: Any) -> tuple[Path, dict[str, list]]:
    """Returns the version folder and split -> examples, read through TFDS's own reader."""
    settings = {"num_workers": 0, "progress": False, "max_skipped": 1.0, **settings}
    folder = build.build(name, data_dir, **settings)
    return folder, read(folder)


def assert_build_stops(name: str, raw: Path, message: str, **settings: Any) -> None:
    """The build of `raw` must end in a BuildError that matches `message`."""
    with pytest.raises(BuildError, match=message):
        build_beside(name, raw, **settings)


def read(folder: Path) -> dict[str, list]:
    """Split -> decoded examples, text as str."""
    sources = tfds.builder_from_directory(folder).as_data_source()
    return {split: [_text(example) for example in source] for split, source in sources.items()}


def by_image(splits: Mapping[str, list]) -> dict[str, dict[str, Any]]:
    """image_id -> example with its split."""
    return {
        example["image_id"]: {**example, "split": split}
        for split, examples in splits.items()
        for example in examples
    }


def grey_levels_apart(example: dict[str, Any], picture: np.ndarray) -> float:
    """The mean difference of an example's pixels from a picture's."""
    return float(np.abs(example["image"][..., 0].astype(int) - picture).mean())


def positives(example: dict[str, Any]) -> set[str]:
    """The labels whose value is 1."""
    return {name for name, value in example["labels"].items() if value == 1}


def patients_of(splits: Mapping[str, list]) -> dict[str, set[str]]:
    """Split -> the ids of its patients."""
    return {split: {e["patient_id"] for e in examples} for split, examples in splits.items()}


def boxes_of(example: dict[str, Any]) -> list[BoxFields]:
    """The example's boxes: label, y0, x0, y1, x1, rounded as `rounded` does."""
    boxes = example["boxes"]
    labels = [label.decode() for label in boxes["label"]]
    return rounded(zip(labels, *(boxes[side] for side in ("y0", "x0", "y1", "x1"))))


def rounded(boxes: Iterable[BoxFields]) -> list[BoxFields]:
    """Boxes whose corners have four decimal places, which float32 keeps."""
    return [(label, *(round(float(corner), 4) for corner in corners)) for label, *corners in boxes]


def skipped_of(folder: Path, parts: int = 1) -> dict[str, str]:
    """File -> reason, from a build's skipped.csv; of the file's path only the last `parts`."""
    with open(folder / "skipped.csv") as stream:
        rows = list(csv.DictReader(stream))
    skipped = {"/".join(row["file"].split("/")[-parts:]): row["reason"] for row in rows}
    assert len(skipped) == len(rows), "two files of one name"
    return skipped


def row_of(raw: Path, table: str, text: str) -> str:
    """Where the first row with `text` stands in a table of `raw`, as skipped.csv names rows."""
    pattern = f"{table}*".casefold()
    found = (path for path in raw.rglob("*") if fnmatch.fnmatch(path.name.casefold(), pattern))
    (path,) = (path for path in found if path.is_file())
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    return f"{path.name}, row {next(n for n, row in enumerate(rows, 1) if text in ','.join(row))}"


def assert_reasons(skipped: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """These files must be skipped, no others; their reasons match as in `pytest.raises`."""
    assert skipped.keys() == expected.keys()
    for name, pattern in expected.items():
        assert re.search(pattern, skipped[name]), (name, skipped[name])


def edit(path: Path, old: str, new: str) -> None:
    """Replaces the first `old` of a text file, which must hold it; .gz too."""
    text = read_text(path)
    assert old in text
    write_text(path, text.replace(old, new, 1))


def read_text(path: Path) -> str:
    """A text file's content with its own line ends; .gz is unpacked."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def write_text(path: Path, text: str) -> None:
    """Writes what `read_text` reads."""
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _text(example: dict[str, Any]) -> dict[str, Any]:
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in example.items()}

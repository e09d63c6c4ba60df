"""Random access to built datasets (ArrayRecord in TFDS's layout), without TensorFlow."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int

from cxr_jax.data import pseudonyms
from cxr_jax.data.dataset_info import find_folder, find_seen_images, open_built, read_metadata
from cxr_jax.data.reader import Records, read_columns


class ChosenRecords:
    """Some records of others; `rows` are their positions in the whole split."""

    def __init__(self, records: "Records | ChosenRecords", rows: Int[np.ndarray, "n"]):
        if isinstance(records, ChosenRecords):
            records, rows = records._records, records.rows[rows]
        self._records, self.rows = records, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._records[int(self.rows[index])]

    def encoded(self, rows: Sequence[int] | Int[np.ndarray, "n"]) -> list[bytes]:
        return self._records.encoded(self.rows[np.asarray(rows, int)])


class Source(NamedTuple):
    """One split: `records[i]` is an example dict whose image is still encoded bytes."""

    name: str
    folder: Path
    split: str
    records: Records | ChosenRecords
    metadata: Mapping[str, Any]
    splits: tuple[str, ...]
    fields: tuple[str, ...]  # that the dataset's examples have, parsed here or not
    fit: str = "crop"  # how its images become squares (io.pixels.square)

    def __len__(self) -> int:
        return len(self.records)

    def encoded(self, rows: Sequence[int] | Int[np.ndarray, "n"]) -> list[bytes]:
        """Returns the stored bytes of these rows' images: much faster than record by record."""
        return self.records.encoded(rows)

    def choose(self, rows: Int[np.ndarray, "n"]) -> "Source":
        """Returns the same split with these records alone."""
        return self.changed(records=ChosenRecords(self.records, rows))

    def changed(self, **fields: Any) -> "Source":
        """Returns the source with other fields, as _replace, which its own length confuses."""
        return Source(**{name: getattr(self, name) for name in self._fields} | fields)

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """Reads fields of these examples, as reader.read_columns those of a whole split."""
        whole = read_columns(open_built(self.folder), self.split, names)
        return {name: [column[row] for row in self.rows] for name, column in whole.items()}

    @property
    def rows(self) -> Int[np.ndarray, "n"]:
        """The records' positions in the split."""
        if isinstance(self.records, ChosenRecords):
            return self.records.rows
        return np.arange(len(self))

    def hashed(self, what: str, of: Sequence[str]) -> tuple[str, ...]:
        """Returns "image" or "patient" ids as files and messages may show them."""
        key = pseudonyms.read(self.folder.parents[2])
        owner = pseudonyms.owner(self.folder, self.metadata)
        return pseudonyms.hashed(key, what, owner, of)

    def damaged(self, row: SupportsIndex, error: Exception) -> ValueError:
        """Returns the error for an image that cannot be decoded, with its place in the split."""
        return ValueError(
            f"{self.name} {self.split!r}: image {self.rows[row]} is damaged ({error}); build the "
            "dataset again"
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.metadata.get("label_names", ()))


def load_source(
    name: str, data_dir: str, split: str, fields: tuple[str, ...] | None = None
) -> Source:
    """Opens one split; `fields` limits what is parsed of each example (all if None).

    Raises FileNotFoundError or ValueError as find_folder, open_built and Records, and ValueError
    for an unknown split.
    """
    folder = find_folder(name, data_dir)
    builder = open_built(folder)
    splits = tuple(str(key) for key in builder.info.splits)
    unknown = [part for part in split.split("+") if part.split("[")[0] not in splits]
    if unknown:
        raise ValueError(
            f"dataset {name} has no split {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(splits)}"
        )
    records, stored = Records(builder, split, fields), tuple(builder.info.features)
    return Source(name, folder, split, records, read_metadata(folder), splits, stored)


def fingerprint_build(folder: Path) -> str:
    """Returns 16 hex digits for a version folder: equal if its images, their order and their
    patients are equal, as far as perceptual hashes and the number of bytes tell."""
    digest = hashlib.sha256()
    for path in (folder / "dataset_info.json", find_seen_images(folder)):
        if path and path.is_file():  # the first datasets have no second
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]

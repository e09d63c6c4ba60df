"""exposure.parquet: for every film its patient and its looks, both hashed, to find it elsewhere.

It stands with every dataset; a pretraining run leaves beside its encoder the rows of the films that
it saw. Row i of a split's rows is the split's example i.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_builders import dicom
from data_builders.records import Record

FILE = "exposure.parquet"
_COLUMNS = ("dataset", "split", "row", "patient", "phash")


class Ledger(NamedTuple):
    """Columns of equal length.

    Attributes:
      dataset, split, row: where the film stands: dataset "name/config", and its place in the split.
      patient: 16 hex digits, equal for equal patients of datasets that share their numbers; "" for
        a film of nobody known.
      phash: the 64-bit perceptual hash.
    """

    dataset: np.ndarray  # str [n]
    split: np.ndarray  # str [n]
    row: np.ndarray  # int64 [n]
    patient: np.ndarray  # str [n]
    phash: np.ndarray  # uint64 [n]

    def take(self, which: np.ndarray) -> Ledger:
        """The rows that an index or a mask chooses."""
        return Ledger(*(column[which] for column in self))


def patient_hash(owner: str, record: Record) -> str:
    """A patient's mark, the same in every dataset that uses `owner`'s patient numbers."""
    if record.patient_id in (record.image_id, dicom.hashed(record.image_id)):
        return ""  # a film of nobody known is a patient of its own
    return hashlib.sha256(f"{owner}/{record.patient_id}".encode()).hexdigest()[:16]


def of_films(
    dataset: str, owner: str, films: Iterable[tuple[str, Iterable[tuple[Record, str]]]]
) -> Ledger:
    """The ledger of a dataset from its stored films in order: (split, (record, phash)s)."""
    columns: list[tuple[str, str, int, str, int]] = []
    for split, of_split in films:
        for row, (record, phash) in enumerate(of_split):
            columns.append((dataset, split, row, patient_hash(owner, record), int(phash, 16)))
    of_type = (np.str_, np.str_, np.int64, np.str_, np.uint64)
    values = zip(*columns) if columns else [()] * len(of_type)
    return Ledger(*(np.array(list(v), t) for v, t in zip(values, of_type)))


def write(path: Path, ledger: Ledger) -> None:
    """Writes a ledger; strings are dictionary-coded, so that a film takes some 25 bytes."""
    table = pa.table(dict(zip(_COLUMNS, ledger)))
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def read(folder: Path) -> Ledger:
    """The ledger in a dataset's version folder or in a pretraining's workdir.

    Raises:
      FileNotFoundError: there is none.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Datasets built and encoders trained before ledgers were kept have "
            "none: build the dataset again (--overwrite)."
        )
    table = pq.read_table(path)
    return Ledger(*(table[name].to_numpy(zero_copy_only=False) for name in _COLUMNS))

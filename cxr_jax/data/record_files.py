"""The record files of a split: that all are there and whole, and damage to a record by its place.

ArrayRecord keeps a hash of every record and of the table at the file's end that says where records
stand: changed bytes raise, or the table is not found and the file seems to hold nothing. What it
does not know is how many records there have to be; dataset_info.json does.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader

from cxr_jax.io.text import plain

RESTORE = "Restore the dataset's folder, or build it again (--overwrite)."
_OPENED_AT_A_TIME = 16


class RecordFiles:
    """Serialized examples by position, as ArrayRecordDataSource gives them.

    Args:
      instructions: TFDS's FileInstructions of a split, a slice or a sum of splits.
      folder: the version folder, in which all of the files must stand.

    Raises:
      FileNotFoundError: a file is not there.
      ValueError: a file is cut, damaged or of another build; here or when a record is read.
    """

    def __init__(self, instructions: Sequence[Any], folder: Path):
        for instruction in instructions:
            if Path(instruction.filename).parent != folder:
                raise ValueError(
                    f"{folder}/dataset_info.json names a file outside of it. {RESTORE}"
                )
        with ThreadPoolExecutor(_OPENED_AT_A_TIME) as pool:
            self._identities = list(pool.map(_check, instructions))
        self._instructions = tuple(instructions)
        self._starts = np.cumsum([0, *(one.take for one in instructions)])[:-1]
        self._source = ArrayRecordDataSource(self._instructions) if instructions else ()
        self._opened: set[int] = set()  # files by number: what is open stays as it was

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: SupportsIndex) -> bytes:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Iterable[SupportsIndex]) -> list[bytes]:
        wanted = [operator.index(row) for row in rows]
        files = np.unique(np.searchsorted(self._starts, wanted, "right") - 1).tolist()
        opened = set(files) - self._opened
        try:
            read = list(self._source.__getitems__(wanted)) if wanted else []
        except MemoryError:
            raise
        except Exception as error:  # ArrayRecord's are RuntimeErrors, and others
            raise self._explain(wanted, error) from error
        for number in opened:  # labels, which were read before, may be of other records
            path = Path(self._instructions[number].filename)
            if _identity(path) != self._identities[number]:
                raise ValueError(
                    f"{path} was replaced while this runs: the dataset was built again. Start anew"
                )
        self._opened |= opened
        return read

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": set()}  # another process opens files of its own

    @property
    def first_rows(self) -> list[int]:
        """The rows with which files begin."""
        return self._starts.tolist()

    def _explain(self, rows: Sequence[int], error: Exception) -> Exception:
        for row in rows:
            if not 0 <= row < len(self):
                return IndexError(f"row {row} of {len(self)}")
            try:
                self._source[row]
            except Exception as of_one:
                return ValueError(f"{self.place(row)} is damaged ({plain(str(of_one))}). {RESTORE}")
        return ValueError(f"records cannot be read ({plain(str(error))}). {RESTORE}")

    def place(self, row: int) -> str:
        """Where a row stands: its file and its number there."""
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        instruction, start = self._instructions[number], int(self._starts[number])
        return f"{instruction.filename}, record {row - start + instruction.skip}"


def _check(instruction: Any) -> tuple[int, ...]:
    """The file's identity."""
    path = Path(instruction.filename)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the dataset is not whole. {RESTORE}")
    identity = _identity(path)
    found = _count(str(path), *identity)
    if found != instruction.examples_in_shard:
        raise ValueError(
            f"{path} holds {found:,} records, dataset_info.json says "
            f"{instruction.examples_in_shard:,}: it is damaged, cut short or of another build. "
            f"{RESTORE}"
        )
    return identity


def _identity(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


@functools.lru_cache(maxsize=10_000)  # a run opens its splits several times
def _count(path: str, device: int, inode: int, size: int, changed: int) -> int:
    if not size:
        return 0
    try:
        reader = ArrayRecordReader(
            path, options="readahead_buffer_size:0", file_reader_buffer_size=32768
        )
        try:
            return reader.num_records()
        finally:
            reader.close()
    except Exception:  # ArrayRecord's are RuntimeErrors, and others
        return 0

"""Reads the examples of built datasets, whole or field by field.

ArrayRecord keeps a hash of every record and of the table at the file's end that says where records
are: changed bytes raise, or the table is not found and the file seems to be empty. How many records
there have to be only dataset_info.json knows.
"""

import functools
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from cxr_jax.data.dataset_info import RESTORE
from cxr_jax.io.text import plain

_BLOCK = 1024  # examples read at a time
_OPENED_AT_A_TIME = 16  # files


class Records:
    """Examples of a split by position; images stay encoded bytes.

    Raises FileNotFoundError for a missing file, and ValueError, here or when an example is read,
    for one that is cut, damaged or of another build; both name it.

    Args:
      split: a split, a slice or a sum of splits.
      fields: limits what is parsed of each example; all if None.
    """

    def __init__(
        self, builder: tfds.core.DatasetBuilder, split: str, fields: Sequence[str] | None = None
    ):
        stored, folder = builder.info.features, Path(builder.data_dir)
        chosen = {key: stored[key] for key in fields or stored.keys()}
        self._features = tfds.features.FeaturesDict(chosen)
        self._decoders = {"image": tfds.decode.SkipDecoding()} if "image" in chosen else None
        self._instructions = tuple(builder.info.splits[split].file_instructions)
        if any(Path(one.filename).parent != folder for one in self._instructions):
            raise ValueError(f"{folder}/dataset_info.json names a file outside of it. {RESTORE}")
        with ThreadPoolExecutor(_OPENED_AT_A_TIME) as pool:
            self._identities = list(pool.map(_check, self._instructions))
        self._starts = np.cumsum([0, *(one.take for one in self._instructions)])[:-1]
        self._source = ArrayRecordDataSource(self._instructions) if self._instructions else ()
        self._opened: set[int] = set()  # files by number: what is open stays as it was

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: SupportsIndex) -> dict[str, Any]:
        (serialized,) = self._read([row])
        try:
            return self._features.deserialize_example_np(serialized, decoders=self._decoders)
        except MemoryError:
            raise
        except Exception as error:  # TFDS and protobuf raise many kinds
            raise self._no_example(row) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": set()}  # another process opens files of its own

    @property
    def first_rows(self) -> list[int]:
        """The first row of each record file."""
        return self._starts.tolist()

    def place(self, row: int) -> str:
        """Returns where a row is: its file and its number there."""
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        instruction, start = self._instructions[number], int(self._starts[number])
        return f"{instruction.filename}, record {row - start + instruction.skip}"

    def hashes(self, rows: Sequence[int]) -> list[int | None]:
        """Returns the images' perceptual hashes; None in the first datasets, which had none."""
        found = []
        for row, fields in self.stored(rows):
            values = _values(fields["phash"], "bytes_list")
            if values is None or not all(re.fullmatch("[0-9a-f]{16}", value) for value in values):
                raise self._no_example(row)
            found.append(int(values[0], 16) if values else None)
        return found

    def encoded(self, rows: Iterable[SupportsIndex]) -> list[bytes]:
        """Returns the images' stored bytes alone, in a third of the time that TFDS takes."""
        images = []
        for row, fields in self.stored([int(row) for row in rows]):
            found = fields["image"].bytes_list.value
            if len(found) != 1:
                raise self._no_example(row)
            images.append(found[0])
        return images

    def stored(self, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yields each row and its fields, as protobuf has them."""
        for row, serialized in zip(rows, self._read(rows), strict=True):
            try:
                yield row, tf_example_pb2.Example.FromString(serialized).features.feature
            except DecodeError as error:
                raise self._no_example(row) from error

    def _read(self, rows: Sequence[SupportsIndex]) -> list[bytes]:
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

    def _explain(self, rows: Sequence[int], error: Exception) -> Exception:
        for row in rows:
            if not 0 <= row < len(self):
                return IndexError(f"row {row} of {len(self)}")
            try:
                self._source[row]
            except Exception as of_one:
                return ValueError(f"{self.place(row)} is damaged ({plain(str(of_one))}). {RESTORE}")
        return ValueError(f"records cannot be read ({plain(str(error))}). {RESTORE}")

    def _no_example(self, row: SupportsIndex) -> ValueError:
        return ValueError(
            f"{self.place(operator.index(row))} is no example as features.json says. {RESTORE}"
        )


def _check(instruction: Any) -> tuple[int, ...]:
    """Checks that a file is there with all its records; returns its identity."""
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


def read_columns(
    builder: tfds.core.DatasetBuilder, split: str, names: Sequence[str]
) -> dict[str, list[Any]]:
    """Reads fields of every example of a split: name -> one value an example, in their order.

    TFDS makes an array of every field of every example; here the wanted ones alone are looked at,
    which reads the labels of 100,000 images in seconds.

    `names` are of text and numbers, also within a dict ("labels/Edema") or a sequence of dicts
    ("boxes/label"); sequences come as lists.

    Raises as Records, and ValueError where the examples have no such field.
    """
    records = Records(builder, split)
    stored = builder.info.features
    missing = [name for name in names if name.partition("/")[0] not in stored]
    if missing:
        raise ValueError(
            f"dataset {builder.info.full_name} has no field {', '.join(missing)}; its examples "
            "have " + ", ".join(sorted(stored))
        )
    kinds = {name: _kind(stored, name) for name in names}
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for start in range(0, len(records), _BLOCK):
        for row, fields in records.stored(range(start, min(start + _BLOCK, len(records)))):
            for name, (kind, is_sequence) in kinds.items():
                values = _values(fields[name], kind)
                if values is None or not (is_sequence or len(values) == 1):
                    raise records._no_example(row)
                columns[name].append(values if is_sequence else values[0])
    return columns


def _kind(features: tfds.features.FeaturesDict, name: str) -> tuple[str, bool]:
    """Returns how protobuf stores a field, and whether an example has a sequence of its values."""
    # A label's own name may hold a slash ("labels/Nodule/Mass").
    outer, _, inner = name.partition("/")
    info = features.get_tensor_info()[outer]
    text = np.dtype((info[inner] if inner else info).np_dtype).kind not in "fiu"
    outside = isinstance(features[outer], tfds.features.Sequence)
    parts = features[outer] if outside or not inner else features[outer][inner]
    is_sequence = isinstance(parts, tfds.features.Sequence)
    return "bytes_list" if text else "float_list", is_sequence


def _values(feature: Any, kind: str) -> list[Any] | None:
    """Returns the values; [] where there are none, None where they are of another kind."""
    found = feature.WhichOneof("kind")
    if found not in (kind, None):
        return None
    if kind == "float_list":
        return list(feature.float_list.value)
    try:
        return [value.decode() for value in feature.bytes_list.value]
    except UnicodeDecodeError:
        return None

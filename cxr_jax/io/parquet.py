"""Small Parquet files, which may be damaged or a stranger's: bounded before they are read.

Pages say how large they are unpacked, and a run of equal values takes a few bytes whatever its
length: a small file may claim any amount of memory. (The format: Apache Parquet, its
parquet.thrift, and Thrift's compact protocol.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_jax.io.text import plain

# A ledger of a million images takes 25 MB.
MAX_BYTES = 250_000_000
MAX_UNPACKED = 500_000_000
# Whatever the table, a row holds a number or an id of its own.
_ROWS_A_BYTE, _FEWEST_ROWS = 10, 10_000
# Letters of a column's texts, each as long as the longest, as NumPy stores them: of those that
# differ, and of all rows.
_LETTERS, _LETTERS_OF_ALL = 125_000_000, 250_000_000
_FIELD_BYTES = 1 << 24


def read(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> pa.Table:
    """The columns `names`, and those of `optional` that there are; texts are dictionary-coded.

    Raises:
      ValueError: the file is damaged, lacks a column, or would take more memory than such a file
        may; says what, not where.
      OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES:,} bytes")
    with path.open("rb") as stream:
        data = stream.read(size)
    try:
        file = _open(data)
        there = file.schema_arrow.names
        missing = [name for name in names if name not in there]
        if missing:
            raise ValueError(f"has no column {', '.join(missing)} (it has {', '.join(there)})")
        wanted = [*names, *(name for name in optional if name in there)]
        if any(there.count(name) > 1 for name in wanted):
            raise ValueError("has two columns of one name")
        texts = [name for name in wanted if _is_text(file.schema_arrow.field(name).type)]
        _check(data, file.metadata, wanted)
        table = _open(data, texts).read(columns=wanted, use_threads=False).select(wanted)
        table.validate(full=True)
        for name in texts:
            _check_texts(name, table[name])
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"is no sound Parquet file ({plain(str(error))})") from error
    return table


def _open(data: bytes, texts: Iterable[str] = ()) -> pq.ParquetFile:
    return pq.ParquetFile(
        pa.BufferReader(data),
        read_dictionary=list(texts),
        thrift_string_size_limit=_FIELD_BYTES,
        thrift_container_size_limit=_FIELD_BYTES,
        page_checksum_verification=True,
    )


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _check(data: bytes, metadata: pq.FileMetaData, wanted: Iterable[str]) -> None:
    """Refuses rows, pages and columns that would take more memory than they may."""
    most = max(_FEWEST_ROWS, _ROWS_A_BYTE * len(data))
    if metadata.num_rows > most:
        raise ValueError(f"claims {metadata.num_rows:,} rows in {len(data):,} bytes")
    unpacked = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            # The name of a list's or a struct's inner column has dots.
            if column.path_in_schema.partition(".")[0] not in wanted:
                continue
            if column.path_in_schema not in wanted:
                raise ValueError(f"{column.path_in_schema} is no plain column")
            if column.num_values > most:
                raise ValueError(f"claims {column.num_values:,} values in {len(data):,} bytes")
            start = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset is not None:
                start = min(start, column.dictionary_page_offset)
            for size in _page_sizes(data, start, start + column.total_compressed_size):
                unpacked += size
                if size < 0 or unpacked > MAX_UNPACKED:
                    raise ValueError(f"unpacks to more than {MAX_UNPACKED:,} bytes")


def _check_texts(name: str, column: pa.ChunkedArray) -> None:
    for chunk in column.chunks:
        values = chunk.dictionary
        longest = pc.max(pc.utf8_length(values)).as_py() or 0
        if longest * len(values) > _LETTERS or longest * len(column) > _LETTERS_OF_ALL:
            raise ValueError(f"{name} holds a text of {longest:,} letters")


def _page_sizes(data: bytes, start: int, stop: int) -> Iterator[int]:
    """Bytes of each page of a column when it is unpacked, as its header says."""
    at = start
    while at < stop:
        if at < 0 or at >= len(data):
            raise ValueError("names pages beyond its end")
        fields, at = _struct(data, at)
        packed, unpacked = fields.get(3), fields.get(2)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0:
            raise ValueError("has a damaged page")
        yield unpacked
        at += packed


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The integers of a struct in Thrift's compact protocol by field, and where it ends."""
    fields: dict[int, Any] = {}
    field = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _integer(data, at)
        fields[field], at = _value(data, at, head & 15, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:  # true, false: in the field's head
            return None, at
        case 3:  # one byte
            return None, at + 1
        case 4 | 5 | 6:  # integers of 16 to 64 bits
            return _integer(data, at)
        case 7:  # a double
            return None, at + 8
        case 8:  # bytes
            length, at = _varint(data, at)
            return None, at + length
        case 12 if depth < 8:
            return _struct(data, at, depth + 1)
    raise ValueError("has a damaged page header")  # lists and maps: no page header has them


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Zigzag: 0, -1, 1, -2, …"""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("has a damaged page header")

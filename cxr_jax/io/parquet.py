"""Small Parquet files, which may be damaged or a stranger's: read by pyarrow, within bounds."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_jax.io.text import plain

# The seen images of a million take 25 MB.
MAX_BYTES = 250_000_000
MAX_UNPACKED = 500_000_000
# A run of equal values takes a few bytes whatever its length, but every row of our tables holds a
# number or an id of its own.
_ROWS_A_BYTE, _FEWEST_ROWS = 10, 10_000
# Letters of a column's texts, each as long as the longest, as NumPy stores them: of those that
# differ, and of all rows.
_LETTERS, _LETTERS_OF_ALL = 125_000_000, 250_000_000
_FIELD_BYTES = 1 << 24


def read(path: Path, names: Iterable[str], optional: Iterable[str] = ()) -> pa.Table:
    """Reads the columns `names`, and those of `optional` that there are; texts dictionary-coded.

    Raises:
      ValueError: the file is damaged, lacks a column, or claims more memory than such a file may;
        says what, not where.
      OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES:,} bytes")
    with path.open("rb") as stream:
        data = stream.read(size)
    try:
        file = _open(data)
        schema = file.schema_arrow
        missing = [name for name in names if name not in schema.names]
        if missing:
            there = ", ".join(schema.names)
            raise ValueError(f"has no column {', '.join(missing)} (it has {there})")
        wanted = [*names, *(name for name in optional if name in schema.names)]
        if any(schema.names.count(name) > 1 for name in wanted):
            raise ValueError("has two columns of one name")
        if nested := [name for name in wanted if pa.types.is_nested(schema.field(name).type)]:
            raise ValueError(f"{nested[0]} is not a plain column")
        _check_size(file.metadata, wanted, size)
        texts = [name for name in wanted if _is_text(schema.field(name).type)]
        table = _open(data, texts).read(columns=wanted, use_threads=False).select(wanted)
        table.validate(full=True)
        for name in texts:
            _check_texts(name, table[name])
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(f"is not a sound Parquet file ({plain(str(error))})") from error
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


def _check_size(metadata: pq.FileMetaData, wanted: Iterable[str], size: int) -> None:
    """Raises ValueError where rows or columns claim more memory than they may."""
    if metadata.num_rows > max(_FEWEST_ROWS, _ROWS_A_BYTE * size):
        raise ValueError(f"claims {metadata.num_rows:,} rows in {size:,} bytes")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    sizes = [c.total_uncompressed_size for c in columns if c.path_in_schema in wanted]
    if min(sizes, default=0) < 0 or sum(sizes) > MAX_UNPACKED:
        raise ValueError(f"unpacks to more than {MAX_UNPACKED:,} bytes")


def _check_texts(name: str, column: pa.ChunkedArray) -> None:
    for chunk in column.chunks:
        values = chunk.dictionary
        longest = pc.max(pc.utf8_length(values)).as_py() or 0
        if longest * len(values) > _LETTERS or longest * len(column) > _LETTERS_OF_ALL:
            raise ValueError(f"{name} holds a text of {longest:,} letters")

"""Damage within what the program stores: what comes out is still JSON, Parquet, ArrayRecord."""

import copy
import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.faults.mutations import TOKENS, mutated, mutated_text

_ODD = (
    *(None, True, 0, -1, 1, 2, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf")),
    *("", "a", "0", "-1", "../../x", "/etc/passwd", "a\0b", "é\u2028", "\ud800", "x" * 100_000),
    *([], {}, [None], ["a", "a"], {"a": 1}, [[[[]]]], {"": {"": ""}}, [0] * 1000),
)


def json_tree(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One or two values of a JSON file changed, renamed, repeated, moved or left out."""
    try:
        tree = json.loads(data)
    except ValueError:
        return mutated_text(rng, data, others)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 | 1:
                holder[key] = copy.deepcopy(rng.choice(_ODD))
            case 2:
                del holder[key]
            case 3:  # a word of it, or another place's value
                other, name = rng.choice(places)
                if key in _keys(holder) and name in _keys(other):
                    holder[key] = copy.deepcopy(other[name])
            case 4 if isinstance(holder, dict):
                holder[rng.choice((key + "x", "", key.upper(), "a" * 5000))] = holder.pop(key)
            case 4:
                holder.insert(key, copy.deepcopy(holder[key]))
            case 5 if isinstance(holder[key], str):
                holder[key] += rng.choice(TOKENS).decode("utf-8", "replace")
            case 5:
                holder[key] = [holder[key]] * rng.choice((1, 2, 300))
    return json.dumps(tree, indent=rng.choice((None, 2))).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the dict or list, and the key or place, of every value in it."""
    for key in _keys(tree):
        yield tree, key
        yield from _places(tree[key])


def _keys(tree: Any) -> list:
    if isinstance(tree, dict):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, list) else []


def parquet(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Returns a sound file of a table of which a column, a cell, rows or the metadata were
    changed."""
    table = pq.read_table(io.BytesIO(data))
    at = rng.randrange(table.num_columns)
    column = table.column(at)
    row = rng.randrange(max(1, len(table)))
    match rng.randrange(10):
        case 0:
            table = table.remove_column(at)
        case 1:
            table = table.rename_columns(
                [rng.choice((n, n, "", "a.b", table.column_names[0])) for n in table.column_names]
            )
        case 2:
            kinds = (pa.string(), pa.binary(), pa.int8(), pa.float32(), pa.large_string())
            kind = rng.choice((*kinds, pa.dictionary(pa.int32(), pa.string()), pa.uint64()))
            table = _replaced(table, at, lambda: column.cast(kind, safe=False))
        case 3:
            values = column.to_pylist()
            values[row : row + 1] = [None]
            table = _replaced(table, at, lambda: pa.array(values, column.type))
        case 4:
            numbers = (0, -1, 2, 2**31, 2**62, float("nan"), float("inf"), 1e300, 0.5)
            texts = (*(token.decode("utf-8", "replace") for token in TOKENS), "x" * 1_000_000, "")
            values = column.to_pylist()
            odd = rng.choice(texts if isinstance(values[row], str) else numbers)
            values[row : row + 1] = [odd]
            table = _replaced(table, at, lambda: pa.array(values, column.type))
        case 5:
            table = table.slice(0, rng.randrange(len(table) + 1))
        case 6:
            rows = rng.choices(range(len(table)), k=len(table) + rng.choice((-1, 0, 1)))
            table = table.take(rows)
        case 7:
            table = pa.concat_tables([table] * rng.choice((2, 50)))
        case 8:  # equal rows take no room
            value, count = rng.choice(((7, 300_000), ("x" * 10_000, 1000), (None, 300_000)))
            table = _replaced(table.take([row] * count), at, lambda: pa.array([value] * count))
        case 9:
            values = [rng.choice(([value], {"a": value})) for value in column.to_pylist()[:1]]
            table = _replaced(table, at, lambda: pa.array(values * len(table)))
    if rng.random() < 0.2:
        metadata = {rng.choice((b"score_kind", b"unknown_start", b"x")): rng.choice(TOKENS)}
        table = table.replace_schema_metadata(metadata)
    stream = io.BytesIO()
    packed = rng.choice(("none", "snappy", "zstd", "gzip"))
    pq.write_table(table, stream, compression=packed, use_dictionary=rng.random() < 0.7)
    return stream.getvalue()


def _replaced(table: pa.Table, at: int, column: Callable[[], Any]) -> pa.Table:
    try:
        return table.set_column(at, table.column_names[at], column())
    except (pa.ArrowException, OverflowError):  # no such value of that type
        return table


def array_record(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Returns a sound record file of which one record was changed, left out, repeated or moved."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        path.write_bytes(data)
        reader = ArrayRecordReader(str(path))
        records = list(reader.read_all())
        reader.close()
        at = rng.randrange(len(records))
        match rng.randrange(6):
            case 0 | 1:
                records[at] = mutated(rng, records[at], records)
            case 2:
                records[at] = bytes(rng.choice((0, 1, 100, 5_000_000)))
            case 3:
                del records[at]
            case 4:
                records.insert(at, rng.choice(records))
            case 5:
                rng.shuffle(records)
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return path.read_bytes()

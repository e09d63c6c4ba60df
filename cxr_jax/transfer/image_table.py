"""The table of test images: sex, age, projection and exposure, and the Parquet file that holds it.

films.parquet lies beside predictions.parquet, for tables of subgroups and of images that an encoder
had not seen; columns image_id, sex, age (years; ours end at 90), projection (view in older files),
seen_film and seen_patient (true, false, null: not known).
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Shaped

from cxr_jax.io import parquet
from cxr_jax.io.text import plain
from cxr_jax.transfer.predictions import refuse_nulls, refuse_repeats

# Hashes of a few different images agree: up to this share of the test images is no cause for alarm.
CHANCE = 0.01

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("sex", pa.string()),
        ("age", pa.float32()),
        ("projection", pa.string()),
        ("seen_film", pa.bool_()),
        ("seen_patient", pa.bool_()),
    ]
)


class ImageTable(NamedTuple):
    """Facts of n images; sex and projection are "" and age is NaN where they are unknown.

    seen_film: the encoder was pretrained on an image that looks like this one; seen_patient: on any
    image of its patient. None where that is not known of the whole set.
    """

    image_id: Shaped[np.ndarray, " n"]
    sex: Shaped[np.ndarray, " n"]
    age: Float[np.ndarray, " n"]
    projection: Shaped[np.ndarray, " n"]
    seen_film: Bool[np.ndarray, " n"] | None = None
    seen_patient: Bool[np.ndarray, " n"] | None = None

    @property
    def seen(self) -> Bool[np.ndarray, " n"] | None:
        """The images seen by their looks or their patient; None where neither is known."""
        known = [flags for flags in (self.seen_film, self.seen_patient) if flags is not None]
        return np.any(known, axis=0) if known else None

    @property
    def exposed(self) -> bool:
        """True where the encoder saw more of these images than hashes that agree by chance."""
        images = 0 if self.seen_film is None else int(self.seen_film.sum())
        patients = self.seen_patient is not None and bool(self.seen_patient.any())
        return beyond_chance(images, patients, len(self.image_id))


def beyond_chance(images: int, patients: bool | int | None, total: int) -> bool:
    """Returns whether these many images that look like trained ones, or seen patients, alarm.

    >>> beyond_chance(2, None, 200), beyond_chance(3, None, 200), beyond_chance(0, 1, 200)
    (False, True, True)
    """
    return bool(patients) or images > CHANCE * total


def unseen_images(tables: Sequence[ImageTable]) -> Bool[np.ndarray, " n"]:
    """Returns the images that no encoder had seen, of tables in one order; unknown counts so."""
    known = [table.seen for table in tables if table.seen is not None]
    return ~np.any(known, axis=0) if known else np.ones(len(tables[0].image_id), bool)


def write_parquet(table: ImageTable, path: str | PathLike[str]) -> None:
    nothing = pa.nulls(len(table.image_id), pa.bool_())
    columns = {name: nothing if held is None else held for name, held in table._asdict().items()}
    columns |= {name: columns[name].astype(str) for name in ("image_id", "sex", "projection")}
    columns["age"] = pa.array(table.age, pa.float32(), from_pandas=True)
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, write_page_checksum=True)


def read_parquet(path: str | PathLike[str]) -> ImageTable:
    """Reads the table; columns but image_id may be absent: unknown.

    Raises ValueError, naming the file, and the row where there is one, for no image_id column, an
    empty or repeated image_id, a column of another type, and seen_* known of some images only.
    """
    try:
        return _from_arrow(parquet.read(Path(path), ("image_id",), (*_SCHEMA.names[1:], "view")))
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"images file {Path(path)}: {plain(str(error))}") from error


def _from_arrow(table: pa.Table) -> ImageTable:
    if "projection" not in table.column_names and "view" in table.column_names:
        table = table.rename_columns({"view": "projection"})
    for field in _SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    table = table.select(_SCHEMA.names).cast(_SCHEMA)
    refuse_nulls(table, "image_id")
    images = table["image_id"].to_numpy().astype(str)
    refuse_repeats(images, "image_id")
    sex, projection = (
        table[name].fill_null("").to_numpy().astype(str) for name in ("sex", "projection")
    )
    seen = {}
    for name in ("seen_film", "seen_patient"):
        if table[name].null_count < len(table):
            refuse_nulls(table, name, "; it is known of every image or of none")
            seen[name] = table[name].to_numpy().astype(bool)
    return ImageTable(images, sex, table["age"].to_numpy().astype(np.float32), projection, **seen)


def in_order(table: ImageTable, image_ids: Shaped[np.ndarray, " m"]) -> ImageTable:
    """Returns the rows of these images, in this order; raises ValueError for the first it lacks."""
    place = {image: row for row, image in enumerate(table.image_id.tolist())}
    if (absent := np.isin(image_ids, table.image_id, invert=True)).any():
        raise ValueError(f"image '{image_ids[absent][0]}' is not in the table of images")
    rows = np.array([place[image] for image in image_ids.tolist()], np.int64)
    return ImageTable(*(None if column is None else column[rows] for column in table))

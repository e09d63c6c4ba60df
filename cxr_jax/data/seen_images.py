"""Seen images: those that an encoder was trained on, and a test set's images among them.

seen_images.parquet has for every image its patient and its looks, hashed, to find it elsewhere.
Every built dataset has one of its images, in the order of its examples; a pretraining leaves beside
its encoder the rows of the images that it saw.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float, Int, UInt64
from PIL import Image

from cxr_jax.data import copies
from cxr_jax.data.dataset_info import (
    RESTORE,
    SEEN_IMAGES,
    find_folder,
    find_seen_images,
    open_built,
)
from cxr_jax.data.order import NO_FIELDS, Fields
from cxr_jax.data.reader import Records
from cxr_jax.data.source import Source, load_source
from cxr_jax.io import parquet, pictures
from cxr_jax.io.atomic import atomic_write
from cxr_jax.io.text import plain

FILE, find = SEEN_IMAGES[0], find_seen_images
# Images whose hashes differ in more bits are, mostly, different images (docs/results/datasets.md).
MAX_DISTANCE = 2
_BLOCK = 1 << 22  # pairs of hashes compared at a time
_NONE = np.zeros(0, np.int64)
_UNKNOWN_START = b"unknown_start"
_COLUMNS = ("dataset", "split", "row", "patient", "phash")
_TYPES = (pa.string(), pa.string(), pa.int64(), pa.string(), pa.uint64())


class ImageHashes(NamedTuple):
    """Images by their hashes, in columns of equal length."""

    dataset: np.ndarray  # str: "name/config"
    split: np.ndarray  # str
    row: np.ndarray  # int64: the place in the split
    patient: np.ndarray  # str: patient_hash, "" unknown
    phash: np.ndarray  # uint64: perceptual hash

    def take(self, which: np.ndarray) -> ImageHashes:
        """Returns the rows that an index or a mask chooses."""
        return ImageHashes(*(column[which] for column in self))


class Seen(NamedTuple):
    """Images of a split that an encoder has seen: by their patients, and by their looks."""

    patient: Bool[np.ndarray, n] | None  # None where one side names no patients
    image: Bool[np.ndarray, n]
    unknown_start: str = ""  # the encoder it started from, where it is unknown what that had seen


def patient_hash(owner: str, patient_id: str) -> str:
    """Returns 16 hex digits, equal in every dataset that uses `owner`'s patient numbers.

    >>> patient_hash("nih_chestxray14", "17")
    '241c614b568fd1db'
    """
    return hashlib.sha256(f"{owner}/{patient_id}".encode()).hexdigest()[:16]


def make(dataset: str, owner: str, images: Mapping[str, Iterable[tuple[str, str]]]) -> ImageHashes:
    """Lists the images of a dataset.

    images: split -> (patient id, "" unknown; perceptual hash in hex) of each image, in order.
    """
    columns = [
        (dataset, split, row, patient and patient_hash(owner, patient), int(phash, 16))
        for split, of_split in images.items()
        for row, (patient, phash) in enumerate(of_split)
    ]
    types = (np.str_, np.str_, np.int64, np.str_, np.uint64)
    values = zip(*columns) if columns else [()] * len(types)
    return ImageHashes(*(np.array(list(v), t) for v, t in zip(values, types)))


def union(a: ImageHashes, b: ImageHashes) -> ImageHashes:
    """Returns the images of both, each once, those of `a` first."""
    both = ImageHashes(*(np.concatenate(columns) for columns in zip(a, b)))
    first: dict[tuple, int] = {}
    for index, image in enumerate(zip(*(column.tolist() for column in both))):
        first.setdefault(image, index)
    return both.take(np.array(list(first.values()), np.int64))


def write(path: Path, images: ImageHashes, unknown_start: str = "") -> None:
    """Writes seen_images.parquet, some 25 bytes an image; unknown_start is as of Seen."""
    table = pa.table(dict(zip(_COLUMNS, images)))
    if unknown_start:
        table = table.replace_schema_metadata({_UNKNOWN_START: unknown_start})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read(folder: Path) -> ImageHashes:
    """Reads seen_images.parquet of a dataset's version folder or a pretraining's workdir.

    Raises FileNotFoundError if there is none, ValueError if it is damaged.
    """
    path = find(folder)
    if path is None:
        raise FileNotFoundError(
            f"{folder / FILE} is missing. The first datasets and encoders had none: build the "
            "dataset again (--overwrite)."
        )
    try:
        table = parquet.read(path, _COLUMNS)
        if any(table[name].null_count for name in _COLUMNS):
            raise ValueError("has empty cells")
        cast = table.cast(pa.schema(list(zip(_COLUMNS, _TYPES))))
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(
            f"{path}: {plain(str(error))}. It is damaged: restore it; of a dataset, build it again "
            "(--overwrite)."
        ) from error
    return ImageHashes(*(cast[name].to_numpy() for name in _COLUMNS))


def read_unknown_start(folder: Path) -> str:
    """Reads the `unknown_start` of the file in a pretraining's workdir; "" if there is none."""
    metadata = pq.read_schema(find(folder)).metadata or {}
    return plain(metadata.get(_UNKNOWN_START, b"").decode(errors="replace"))


class Pairs(NamedTuple):
    """Near-identical images: rows of two lists, bits that differ, correlation (NaN: not known)."""

    a: Int[np.ndarray, " n"]
    b: Int[np.ndarray, " n"]
    distance: Int[np.ndarray, " n"]
    correlation: Float[np.ndarray, " n"]

    def take(self, which: np.ndarray) -> Pairs:
        """Returns the pairs that an index or a mask chooses."""
        return Pairs(*(column[which] for column in self))


def close_hashes(
    a: UInt64[np.ndarray, " n"],
    b: UInt64[np.ndarray, " m"],
    max_distance: int,
    within: bool = False,
    step: Callable[[], None] = lambda: None,
) -> Pairs:
    """Finds all pairs of hashes that differ in at most `max_distance` bits; correlations are NaN.

    >>> close_hashes(np.uint64([1, 7]), np.uint64([3]), max_distance=1).distance
    array([1, 1])

    within: a and b are the same images: each pair once, none with itself. step: called after each
    hash of `a`.
    """
    rows = max(1, _BLOCK // max(1, len(b)))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(a), rows):
        distance = np.bitwise_count(a[start : start + rows, None] ^ b[None])
        i, j = np.nonzero(distance <= max_distance)
        kept = (i + start < j) if within else np.ones(len(i), bool)
        found.append((i[kept] + start, j[kept], distance[i, j][kept].astype(np.int64)))
        for _ in range(len(distance)):
            step()
    i, j, bits = (np.concatenate(column) for column in zip(*found)) if found else [_NONE] * 3
    return Pairs(i, j, bits, np.full(len(i), np.nan))


def shared_patients(a: ImageHashes, b: ImageHashes) -> set[str]:
    """Returns the patients, as hashes, of whom both have images."""
    return (set(a.patient.tolist()) & set(b.patient.tolist())) - {""}


def list_images(source: Source) -> ImageHashes:
    """Lists the images of a source, row by row; it may be a slice, sum or choice of splits.

    Raises as `read`, and ValueError for a list of another build than the images.
    """
    whole = read(source.folder)
    builder = open_built(source.folder)
    infos = builder.info.splits
    rows = []
    for part in tfds.core.ReadInstruction.from_spec(source.split).to_absolute(infos):
        of_split = np.flatnonzero(whole.split == part.splitname)
        if not np.array_equal(whole.row[of_split], np.arange(infos[part.splitname].num_examples)):
            raise ValueError(
                f"{find(source.folder)} does not list the {part.splitname} images one "
                f"by one as dataset_info.json counts them. {RESTORE}"
            )
        rows.append(of_split[part.from_ : part.to])
    images = whole.take(np.concatenate(rows))
    # A list left from an earlier build: each record file's first image has another hash there.
    records = Records(builder, source.split, ("image_id",))
    first = records.first_rows
    for row, stored in zip(first, records.hashes(first), strict=True):
        if stored not in (None, int(images.phash[row])):
            raise ValueError(
                f"{records.place(row)} is another image than {FILE} says: the folder "
                f"{source.folder} holds files of two builds. {RESTORE}"
            )
    return images.take(source.rows)


def leave_out(source: Source, excluded: Sequence[str], data_dir: str) -> Source:
    """Returns the source without images that the datasets `excluded` have too.

    Left out are images of their patients, images within MAX_DISTANCE bits of one of theirs, and
    those near-identical to one by both limits of `copies`. Raises ValueError if nothing is left.
    """
    own = list_images(source)
    keep = np.ones(len(own.row), bool)
    for name in excluded:
        splits = open_built(find_folder(name, data_dir)).info.splits
        other = load_source(name, data_dir, "+".join(splits), fields=("image",))
        known = list_images(other)
        shared = compare(own, known)
        keep &= ~shared.image
        if shared.patient is not None:
            keep &= ~shared.patient
        rows = np.flatnonzero(keep)
        pairs = close_hashes(own.phash[rows], known.phash, copies.MAX_DISTANCE)
        alike = copies.correlate(rows[pairs.a], pairs.b, _look(source), _look(other))
        keep[rows[pairs.a[alike >= copies.MIN_CORRELATION]]] = False
    if not keep.any():
        raise ValueError(
            f"config.data.exclude={','.join(excluded)} leaves no image of {source.name}"
        )
    return source.choose(np.flatnonzero(keep))


def _look(source: Source) -> copies.Look:
    """Returns row -> thumbnail."""

    @functools.lru_cache(maxsize=100_000)
    def look(row: int) -> Float[np.ndarray, " pixels"]:
        (encoded,) = source.encoded([row])
        try:
            return copies.thumbnail(Image.fromarray(pictures.decode(encoded).pixels))
        except ValueError as error:
            raise source.damaged(row, error) from error

    return look


def seen_in_training(
    source: Source, num_images: int, seed: int, fields: Fields = NO_FIELDS
) -> ImageHashes:
    """Lists the first `num_images` in a pretraining's order, and those that `fields` drew."""
    rows = np.arange(len(source))
    if num_images < len(source):
        rows = np.sort(fields.image_rows(len(source), seed, 0, num_images))
    return list_images(source).take(rows)


def compare(images: ImageHashes, known: ImageHashes) -> Seen:
    """Returns the `images` that are of patients in `known`, or within MAX_DISTANCE bits of one."""
    patients = shared_patients(images, known)
    of_patient = None
    if (images.patient != "").any() and (known.patient != "").any():
        of_patient = np.array([patient in patients for patient in images.patient], bool)
    unique, place = np.unique(images.phash, return_inverse=True)
    alike = np.zeros(len(unique), bool)
    alike[close_hashes(unique, np.unique(known.phash), MAX_DISTANCE).a] = True
    return Seen(of_patient, alike[place])


def seen_by_encoder(spec: str, source: Source) -> Seen | None:
    """Returns what an encoder saw of a source, if its workdir or our export of it says so."""
    folder = Path(re.sub("^(workdir|safetensors):", "", spec)).expanduser()
    if not find(folder):
        return None
    seen = compare(list_images(source), read(folder))
    return seen._replace(unknown_start=read_unknown_start(folder))

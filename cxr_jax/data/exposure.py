"""What an encoder saw in pretraining, and how much of a test set that is.

A pretraining run leaves seen_images.parquet in its workdir: the rows of its dataset's own that it
trained on (cxr_jax/data/seen_images.py).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool

from cxr_jax.data import seen_images
from cxr_jax.data.dataset_info import find_folder, open_built
from cxr_jax.data.order import NO_FIELDS, Fields
from cxr_jax.data.reader import Records, open_records
from cxr_jax.data.schema import RESTORE
from cxr_jax.data.source import Source


class Exposure(NamedTuple):
    """Which images of a split an encoder has seen: of whose patients, and which by their looks.

    patient is None where it cannot be known: one side names no patients. unknown_start: the encoder
    that this one's pretraining started from, where nobody knows what that had seen; "": none.
    """

    patient: Bool[np.ndarray, "n"] | None
    image: Bool[np.ndarray, "n"]
    unknown_start: str = ""


def of_source(source: Source) -> seen_images.ImageHashes:
    """The ledger of a source, row by row; slices, sums and choices of splits included.

    Raises:
      FileNotFoundError: the dataset was built before ledgers were kept.
      ValueError: the ledger is damaged, or of another build than the images.
    """
    whole = seen_images.read(source.folder)
    builder = open_built(source.folder)
    infos = builder.info.splits
    parts = tfds.core.ReadInstruction.from_spec(source.split).to_absolute(infos)
    rows = []
    for part in parts:
        of_split = np.flatnonzero(whole.split == part.splitname)
        if not np.array_equal(whole.row[of_split], np.arange(infos[part.splitname].num_examples)):
            raise ValueError(
                f"{seen_images.find(source.folder)} does not list the {part.splitname} images one "
                f"by one as dataset_info.json counts them. {RESTORE}"
            )
        rows.append(of_split[part.from_ : part.to])
    images = whole.take(np.concatenate(rows))
    _check_images(source, open_records(builder, source.split, ("image_id",)), images)
    return images.take(source.rows)


def _check_images(source: Source, records: Records, images: seen_images.ImageHashes) -> None:
    """Refuses a ledger of other images, as one left from an earlier build: looks at each record
    file's first image, which has the same hash in both."""
    first = records.first_rows
    for row, stored in zip(first, records.hashes(first), strict=True):
        if stored not in (None, int(images.phash[row])):
            raise ValueError(
                f"{records.place(row)} is another image than {seen_images.FILE} says: the folder "
                f"{source.folder} holds files of two builds. {RESTORE}"
            )


def without(source: Source, excluded: Sequence[str], data_dir: str) -> Source:
    """The source without images that the datasets `excluded` have too.

    Left out are images of their patients, and images within two bits of one of theirs.

    Raises:
      ValueError: nothing is left.
    """
    own = of_source(source)
    keep = np.ones(len(own.row), bool)
    for name in excluded:
        other = seen_images.read(find_folder(name, data_dir))
        shared = compare(own, other)
        keep &= ~shared.image
        if shared.patient is not None:
            keep &= ~shared.patient
    if not keep.any():
        raise ValueError(
            f"config.data.exclude={','.join(excluded)} leaves no image of {source.name}"
        )
    return source.choose(np.flatnonzero(keep))


def seen(
    source: Source, num_images: int, seed: int, fields: Fields = NO_FIELDS
) -> seen_images.ImageHashes:
    """The images that the first `num_images` of a pretraining's order hold: all, after an epoch.

    fields: of the batches; their images are seen too.
    """
    rows = np.arange(len(source))
    if num_images < len(source):
        rows = np.sort(fields.image_rows(len(source), seed, 0, num_images))
    return of_source(source).take(rows)


def compare(images: seen_images.ImageHashes, known: seen_images.ImageHashes) -> Exposure:
    """Which of `images` are of patients, or look like images, that are in `known`."""
    patients = seen_images.shared_patients(images, known)
    of_patient = None
    if (images.patient != "").any() and (known.patient != "").any():
        of_patient = np.array([patient in patients for patient in images.patient], bool)
    return Exposure(of_patient, seen_images.looks_known(images, known))


def of_encoder(spec: str, source: Source) -> Exposure | None:
    """How much of a source an encoder saw, if its workdir, or our export of it, keeps a ledger."""
    folder = Path(re.sub("^(workdir|safetensors):", "", spec)).expanduser()
    if not seen_images.find(folder):
        return None
    seen = compare(of_source(source), seen_images.read(folder))
    return seen._replace(unknown_start=seen_images.read_unknown_start(folder))
